"""Sampling with vLLM in this process: prompts in as tokens and images, responses out as tokens.

A response is sampled from the model's distribution at the settings' temperature, without top-p, top-k or
penalties, image tokens banned. Temperature and bans are applied to the logits by the function that the trainer
uses (``vllm_worker.Restricted``), so vLLM is asked for plain samples and for plain log-probabilities.

Determinism: every request has a seed of its own. The same requests in the same order, on the same machine and
version, give the same tokens. A response may differ when other requests run beside it, because vLLM's matrix products
round differently for another batch; ``HfEngine`` has no such dependence. vLLM's batch-invariant mode exists on
some GPUs only and is not switched on here.

Weights: ``load_weights`` goes through vLLM's weight transfer API with a backend of ours
(``vllm_worker.HandOver``), the same on CPUs and GPUs, and then empties every cache that weights have gone into. All of
this was run on CPUs only; on GPUs nothing was, and ``sleep`` never.

On CPUs prompts are computed whole: vLLM 0.32 rewinds a request's random numbers after a part of a prompt, which a CPU's
generator cannot do, and stops with "CPU Generator does not use offset".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from jobs import data, vlm
from jobs.grpo.engines.prompts import EncodedPrompts
from jobs.grpo.rollout import Request, Sample, TrainingRow
from jobs.grpo.sampling import device
from jobs.grpo.settings import Engine as Settings
from orchestrator.errors import InputError

# Prompts of one step on a CPU, in tokens; more where a single sequence may be longer.
_CPU_STEP_TOKENS = 4096
_INSPECTION = "vllm.model_executor.models.registry"


# Whose prompt, which tokens behind it, and what sampling parameters.
_Call = tuple[Request | TrainingRow, Sequence[int], dict[str, Any]]


class PromptsDiffer(RuntimeError):
    """vLLM saw another prompt than the trainer will: sampled and trained on would be different sequences."""


class VllmEngine:
    """A copy of the policy in vLLM that only samples."""

    def __init__(self, model: str, settings: Settings, *, dtype: str, max_prompt_tokens: int) -> None:
        self.processor = vlm.load_processor(model)
        self.version = 0
        self._settings = settings
        self._on_gpu = device() == "cuda"
        self._prompts = EncodedPrompts(self.processor, max_prompt_tokens)
        self._end = vlm.end_id(self.processor)
        self._calls = 0
        longest = max_prompt_tokens + settings.max_new_tokens + 1
        self._engine = _start(model, settings, dtype, min(longest, vlm.positions(model)), on_gpu=self._on_gpu)
        self._engine.collective_rpc("restrict", args=(vlm.banned_ids(self.processor), settings.temperature))

    def generate(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield one sample a request, in the order in which they end, each the moment it ends.

        Raises:
            InputError: A prompt is too long.
            PromptsDiffer: vLLM expands a prompt's images to other tokens than the trainer.
        """
        calls = ((request, (), {"seed": request.seed, "max_tokens": self._room(request)}) for request in requests)
        for index, output in self._run(calls):
            yield self._sample(requests[index], output)

    def logprobs(self, rows: Sequence[TrainingRow]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of given tokens: those of the end of a prompt that holds them."""
        found = dict(self._run((row, row.tokens, {"seed": 0, "max_tokens": 1, "prompt_logprobs": 0}) for row in rows))
        return [_last_logprobs(found[index].prompt_logprobs, row.tokens) for index, row in enumerate(rows)]

    def load_weights(self, weights: dict[str, Tensor], version: int) -> None:
        """Replace all weights, and forget all that was computed from the old ones."""
        self._engine.collective_rpc("start_weight_update")
        self._engine.collective_rpc("update_weights", args=({"weights": weights},))
        self._engine.collective_rpc("finish_weight_update")
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("weight sync: vLLM still holds blocks of running requests. Let them end first.")
        self.version = version

    def sleep(self) -> None:
        """Keep the weights in the CPU's memory and give the GPU's back, if the settings say so."""
        if self._settings.sleep and self._on_gpu:
            self._engine.sleep(level=1)

    def wake(self) -> None:
        """Take the GPU's memory again."""
        if self._settings.sleep and self._on_gpu:
            self._engine.wake_up()

    def _run(self, calls: Iterable[_Call]) -> Iterator[tuple[int, Any]]:
        """Yield each call's place and output, in the order in which they end."""
        running: dict[str, int] = {}
        try:
            for index, (asked, tokens, options) in enumerate(calls):
                running[self._add(asked, tokens, options)] = index
            while running:
                for output in self._engine.step():
                    yield running.pop(output.request_id), output
        finally:
            # Whoever stops listening stops the sampling.
            self._engine.abort_request(list(running))

    def _add(self, asked: Request | TrainingRow, tokens: Sequence[int], options: Mapping[str, Any]) -> str:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            # The logits have the settings' temperature already.
            temperature=1.0,
            logprobs=0,
            # The end token alone ends a response, whatever the folder's generation settings say.
            ignore_eos=True,
            stop_token_ids=[self._end],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **options,
        )
        self._calls += 1
        key = str(self._calls)
        self._engine.add_request(key, self._rendered(asked, tokens), parameters)
        return key

    def _rendered(self, asked: Request | TrainingRow, tokens: Sequence[int]) -> Any:
        prompt = self._prompts.of(asked)
        raw: dict[str, Any] = {"prompt_token_ids": [*vlm.collapsed(prompt), *tokens]}
        if asked.images:
            raw["multi_modal_data"] = {"image": [data.decode(image) for image in asked.images]}
        (rendered,) = self._engine.renderer.render_cmpl([raw])
        expected = [*prompt.input_ids, *tokens]
        if rendered["prompt_token_ids"] != expected:
            raise PromptsDiffer(
                f"prompt of example {asked.example!r}: vLLM has {len(rendered['prompt_token_ids'])} tokens where the "
                f"trainer has {len(expected)}, or others. The folder's processor and vLLM's disagree."
            )
        return rendered

    def _room(self, request: Request) -> int:
        """Return how many tokens may follow: what the settings allow, or an error, never less."""
        longest, wanted = self._engine.model_config.max_model_len, self._settings.max_new_tokens
        prompt = len(self._prompts.of(request).input_ids)
        # One position more is needed to compute the log-probabilities of the longest response.
        if prompt + wanted >= longest:
            raise InputError(
                f"engine.max_new_tokens: {wanted} and the {prompt} tokens of the prompt of example {request.example!r} "
                f"leave none of the model's {longest} positions free. Lower it or remove the example."
            )
        return wanted

    def _sample(self, request: Request, output: Any) -> Sample:
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended the response to {request.example!r} with {completion.finish_reason!r}.")
        return Sample(
            group=request.group,
            sample=request.sample,
            tokens=tuple(tokens),
            logprobs=_last_logprobs(completion.logprobs, tokens),
            text=vlm.decode(self.processor, tokens, keep_special=self._settings.keep_special_tokens),
            finished=tokens[-1] == self._end,
            version=self.version,
            prompt_tokens=len(self._prompts.of(request).input_ids),
        )


def _last_logprobs(found: Sequence[Any], tokens: Sequence[int]) -> tuple[float, ...]:
    return tuple(at[token].logprob for at, token in zip(found[len(found) - len(tokens) :], tokens, strict=True))


def _start(model: str, settings: Settings, dtype: str, longest: int, *, on_gpu: bool) -> Any:
    set_environment(on_gpu=on_gpu)
    from vllm import EngineArgs, LLMEngine
    from vllm.config import WeightTransferConfig

    from jobs.grpo.engines import vllm_worker

    arguments = EngineArgs(
        model=model,
        dtype=dtype,
        max_model_len=longest,
        max_num_seqs=settings.batch,
        # The folder's own settings (top_k, repetition penalty) would change the distribution.
        generation_config="vllm",
        weight_transfer_config=WeightTransferConfig(backend=vllm_worker.HAND_OVER),
        worker_extension_cls=vllm_worker.RESTRICTED,
        disable_log_stats=True,
        **(_on_gpus(settings) if on_gpu else _on_cpus(settings, longest)),
    )
    with adapted():
        return LLMEngine.from_engine_args(arguments)


def _on_gpus(settings: Settings) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enable_sleep_mode": settings.sleep,
    }


def _on_cpus(settings: Settings, longest: int) -> dict[str, Any]:
    return {
        "kv_cache_memory_bytes": int(settings.kv_cache_gb * 2**30),
        "enforce_eager": True,
        # Whole prompts only, see above. A prompt found in part in the prefix cache could be cut at an image.
        "enable_chunked_prefill": False,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": max(longest, _CPU_STEP_TOKENS),
    }


def set_environment(*, on_gpu: bool) -> None:
    """Tell vLLM what it reads from the environment. Must come before it is imported."""
    # This process is the engine: no other to talk to, and weights are handed over as tensors.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not on_gpu:
        # Bound threads, or more than one, lose against whatever else computes on these cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@contextmanager
def adapted() -> Iterator[None]:
    """Keep vLLM's start from failing over torchvision, and from changing torch for this process."""
    from vllm.model_executor.models import registry

    # vLLM asks what a model can do in a fresh interpreter, which needs the repair of torchvision too.
    registry._SUBPROCESS_COMMAND = [sys.executable, "-m", "jobs.torchvision_cpu", _INSPECTION]
    # On CPUs vLLM replaces it by a warning, for threads that it has bound. Ours are not, and it warned at every image.
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
