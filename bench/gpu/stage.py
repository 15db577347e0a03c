"""What is trained on the GPU: an untrained Qwen2.5-VL of the real proportions, noise for images, drawn lengths.

Nothing is downloaded and parquet is not needed. The tokenizer has the real one's size, most of it words of no meaning,
so that whatever an untrained model samples has a text that a reward can look at.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.trl.problem import Problem, Prompt
from jobs import vlm
from jobs.data import IMAGE, Example
from jobs.grpo.rollout import TrainingRow
from jobs.tiny import tokenizer

from transformers import (  # isort: skip  # after jobs.vlm, which repairs torchvision
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

QUESTION = "How many red circles are there? Think, then answer."
POSITIONS = 32_768
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Sizes. The defaults are Qwen2.5-VL-3B's, with 24 layers in place of 36: 2.8 billion parameters.

    Attributes:
        layers: Of the language model.
        hidden: Its width.
        intermediate: Of its feed-forward layers.
        heads: Query heads; each is ``hidden / heads`` wide.
        key_value_heads: Heads of keys and values.
        vocabulary: Tokens.
        vision_layers: Of the vision tower.
        vision_hidden: Its width.
        vision_intermediate: Of its feed-forward layers.
        side_px: Of an image, a multiple of 28.
        prompts: Different prompts.
        samples: Responses to each.
        tokens_min: Shortest response of the update's rows.
        tokens_max: Longest.
        micro_batch_tokens: Of a forward pass of the update.
        chunk: Tokens whose logits exist at a time.
        step_prompts: Prompts of a whole GRPO step.
        step_tokens: Longest response of it, which most reach.
    """

    layers: int = 24
    hidden: int = 2048
    intermediate: int = 11008
    heads: int = 16
    key_value_heads: int = 2
    vocabulary: int = 151_936
    vision_layers: int = 32
    vision_hidden: int = 1280
    vision_intermediate: int = 3420
    side_px: int = 448
    prompts: int = 8
    samples: int = 8
    tokens_min: int = 64
    tokens_max: int = 2048
    micro_batch_tokens: int = 16_384
    chunk: int = 2048
    step_prompts: int = 4
    step_tokens: int = 128


TINY = Stage(
    layers=2,
    hidden=64,
    intermediate=128,
    heads=2,
    key_value_heads=2,
    vocabulary=1024,
    vision_layers=2,
    vision_hidden=64,
    vision_intermediate=128,
    side_px=56,
    prompts=2,
    samples=4,
    tokens_min=4,
    tokens_max=32,
    micro_batch_tokens=128,
    chunk=32,
    step_prompts=2,
    step_tokens=8,
)
"""So small that every line runs on a CPU in a minute."""


def build(stage: Stage, folder: Path) -> int:
    """Write model, processor and prompts below ``folder``; return the number of parameters."""
    words = _tokenizer(stage.vocabulary)
    config = _config(stage, words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    # In bfloat16, as such models are published; training makes float32 master weights of it.
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    model.save_pretrained(folder / "model")
    _processor(words, stage.side_px).save_pretrained(folder / "model")
    for number in range(stage.prompts):
        (folder / f"{number}.png").write_bytes(_noise(number, stage.side_px))
    (folder / "prompts.json").write_text(json.dumps(stage.prompts))
    return sum(parameter.numel() for parameter in model.parameters())


def load(path: Path) -> list[Example]:
    """Return the prompts: a data source of its own, ``bench.gpu.stage:load``."""
    return [
        Example(
            id=str(number),
            problem=f"{IMAGE} {QUESTION}",
            answer="1",
            images=((path.parent / f"{number}.png").read_bytes(),),
            visual_key_info=None,
        )
        for number in range(json.loads(path.read_text()))
    ]


def rows(stage: Stage, folder: Path) -> list[TrainingRow]:
    """Return a batch of responses of random tokens, their lengths drawn evenly on a logarithmic scale."""
    generator = random.Random(SEED)
    highest = min(vlm.banned_ids(vlm.load_processor(folder / "model")))
    found = []
    for example in load(folder / "prompts.json"):
        for sample in range(stage.samples):
            length = round(stage.tokens_min * (stage.tokens_max / stage.tokens_min) ** generator.random())
            tokens = tuple(generator.randrange(highest) for _ in range(length))
            found.append(
                TrainingRow(
                    example=example.id,
                    text=example.problem,
                    images=example.images,
                    tokens=tokens,
                    logprobs=(0.0,) * length,
                    advantage=1.0 if sample % 2 else -1.0,
                )
            )
    return found


def problem(stage: Stage, folder: Path, steps: int) -> Problem:
    """Return the work of whole GRPO steps, as TRL is told it."""
    prompts = [
        Prompt(id=example.id, text=example.problem, image=str(folder / f"{example.id}.png"))
        for example in load(folder / "prompts.json")
    ]
    return Problem(
        model=str(folder / "model"),
        prompts=tuple(prompts[index % len(prompts)] for index in range(steps * stage.step_prompts)),
        prompts_per_step=stage.step_prompts,
        samples_per_prompt=stage.samples,
        max_new_tokens=stage.step_tokens,
        steps=steps,
        learning_rate=1e-6,
        micro_batch=stage.samples,
        end=vlm.end_id(vlm.load_processor(folder / "model")),
        dtype="bfloat16",
        gradient_checkpointing=True,
    )


def _tokenizer(size: int) -> Any:
    small = tokenizer.build([QUESTION])
    model = json.loads(small.backend_tokenizer.to_str())["model"]
    room = size - len(tokenizer.VISION) - 3
    vocabulary = dict(model["vocab"])
    vocabulary |= {f"Ġw{number}": number for number in range(len(vocabulary), room)}
    found = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token=tokenizer.END,
        pad_token=tokenizer.END_OF_TEXT,
        chat_template=tokenizer.CHAT_TEMPLATE,
        model_max_length=POSITIONS,
    )
    special = [tokenizer.END_OF_TEXT, tokenizer.START, tokenizer.END, *tokenizer.VISION]
    found.add_special_tokens({"additional_special_tokens": special})
    return found


def _processor(words: Any, side_px: int) -> Any:
    size = {"shortest_edge": side_px**2, "longest_edge": side_px**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=words.chat_template,
    )


def _config(stage: Stage, words: Any) -> Any:
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    frequencies = stage.hidden // stage.heads // 2
    language = {
        "vocab_size": stage.vocabulary,
        "hidden_size": stage.hidden,
        "intermediate_size": stage.intermediate,
        "num_hidden_layers": stage.layers,
        "num_attention_heads": stage.heads,
        "num_key_value_heads": stage.key_value_heads,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            # As 16, 24, 24 of 64 in the published model.
            "mrope_section": [frequencies // 4, frequencies * 3 // 8, frequencies * 3 // 8],
        },
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {
        "depth": stage.vision_layers,
        "hidden_size": stage.vision_hidden,
        "intermediate_size": stage.vision_intermediate,
        "num_heads": 16 if stage.vision_hidden >= 1024 else 4,
        "out_hidden_size": stage.hidden,
        "fullatt_block_indexes": sorted({stage.vision_layers * part // 4 - 1 for part in (1, 2, 3, 4)} - {-1}),
        "window_size": 112,
    }
    return Qwen2_5_VLConfig(
        text_config=language,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _noise(seed: int, side_px: int) -> bytes:
    picture = Image.frombytes("RGB", (side_px, side_px), random.Random(seed).randbytes(3 * side_px**2))
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue()
