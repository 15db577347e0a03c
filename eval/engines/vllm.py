"""Answers by vLLM in this process: prompts in as tokens and images, answers out as tokens.

Prompts are made by the same function as for transformers, and the same tokens are banned, in the model's logits.
Questions go in one by one while others are under way, so a batch never waits for its longest answer.

On CPUs prompts are computed whole, without prefix caching, for the reason told in ``jobs.grpo.engines.vllm``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from eval.engines.hf import encoded, revision, worded
from eval.generation import Answer, Inbox, Question
from eval.settings import Settings
from jobs import data, vlm
from jobs.grpo.engines.vllm import adapted, set_environment
from jobs.grpo.sampling import device
from orchestrator.errors import InputError

_CPU_STEP_TOKENS = 4096


class VllmEngine:
    """A model in vLLM."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings = settings
        self._processor = vlm.load_processor(model)
        self._longest = min(settings.vllm.max_prompt_tokens + settings.max_new_tokens, vlm.positions(model))
        # A few wait inside, so that one that ends is followed at once.
        self.room = settings.vllm.max_num_seqs + max(8, settings.vllm.max_num_seqs // 4)
        self._calls = 0
        where = device()
        self._dtype = ("bfloat16" if where == "cuda" else "float32") if settings.dtype == "auto" else settings.dtype
        self._engine = self._start(model, on_gpu=where == "cuda")
        # At temperature 1 the logits stay the model's, but for the banned tokens; SamplingParams has the temperature.
        self._engine.collective_rpc("restrict", args=(vlm.banned_ids(self._processor), 1.0))
        found = revision(self._engine.model_config.hf_config)
        self.about: Mapping[str, Any] = {"device": where, "dtype": self._dtype, "revision": found}

    def answer(self, inbox: Inbox, emit: Callable[[Answer], None]) -> None:
        """Answer what the inbox holds, each handed over the moment it ends."""
        running: dict[str, tuple[Question, float]] = {}
        try:
            while not inbox.stopped:
                for question in inbox.take(self.room - len(running), wait=not running):
                    running[self._add(question)] = (question, time.monotonic())
                if not running:
                    return
                for output in self._engine.step():
                    question, began = running.pop(output.request_id)
                    tokens = list(output.outputs[0].token_ids)
                    emit(worded(self._processor, self._settings, question, tokens, time.monotonic() - began))
        finally:
            self._engine.abort_request(list(running))

    def _add(self, question: Question) -> str:
        self._calls += 1
        name = str(self._calls)
        prompt = encoded(self._processor, question)
        given: dict[str, Any] = {"prompt_token_ids": vlm.collapsed(prompt)}
        if question.images:
            given["multi_modal_data"] = {"image": [data.decode(image) for image in question.images]}
        (rendered,) = self._engine.renderer.render_cmpl([given])
        self._engine.add_request(name, rendered, self._parameters(question, len(prompt.input_ids)))
        return name

    def _parameters(self, question: Question, prompt_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = self._settings
        if prompt_tokens + settings.max_new_tokens > self._longest:
            raise InputError(
                f"problem {question.key[0]!r}: its prompt of {prompt_tokens} tokens and max_new_tokens: "
                f"{settings.max_new_tokens} exceed {self._longest}, vllm.max_prompt_tokens with max_new_tokens, or "
                "all positions of the model. Raise the one or lower the other."
            )
        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p if settings.temperature else 1.0,
            repetition_penalty=settings.repetition_penalty,
            seed=question.seed if settings.temperature else None,
            max_tokens=settings.max_new_tokens,
            # The end token alone ends an answer, whatever the folder's generation settings say.
            ignore_eos=True,
            stop_token_ids=[vlm.end_id(self._processor)],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _start(self, model: str, *, on_gpu: bool) -> Any:
        set_environment(on_gpu=on_gpu)
        from vllm import EngineArgs, LLMEngine

        from jobs.grpo.engines import vllm_worker

        given = self._settings.vllm
        arguments = EngineArgs(
            model=model,
            dtype=self._dtype,
            max_model_len=self._longest,
            max_num_seqs=given.max_num_seqs,
            tensor_parallel_size=given.tensor_parallel,
            generation_config="vllm",
            worker_extension_cls=vllm_worker.RESTRICTED,
            disable_log_stats=True,
            **(self._on_gpus() if on_gpu else self._on_cpus()),
        )
        with adapted():
            return LLMEngine.from_engine_args(arguments)

    def _on_gpus(self) -> dict[str, Any]:
        return {"gpu_memory_utilization": self._settings.vllm.gpu_memory_utilization}

    def _on_cpus(self) -> dict[str, Any]:
        return {
            "kv_cache_memory_bytes": int(self._settings.vllm.kv_cache_gb * 2**30),
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "enable_prefix_caching": False,
            "max_num_batched_tokens": max(self._longest, _CPU_STEP_TOKENS),
        }
