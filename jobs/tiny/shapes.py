"""The architectures, untrained: a Qwen2.5-VL of about a million parameters, and a smaller Qwen2.

Both are made from ordinary configurations, saved as ordinary Hugging Face folders, and loaded by
everything that loads the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jobs import torchvision_cpu

torchvision_cpu.repair()

from transformers import (  # noqa: E402  # after the repair, without which the image classes cannot be imported
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

POSITIONS = 1024
# Of weights. The 0.02 of wide models leaves one of this width silent for its first hundred steps.
POLICY_STD, JUDGE_STD = 0.06, 0.12
SEEING_STD = 0.12
"""Of a policy that is to say where things are: with half of it, it takes twice the steps to learn where to look."""
PIXELS_MIN, PIXELS_MAX = 56 * 56, 224 * 224


def save_policy(folder: Path, tokenizer: Any, *, hidden: int, layers: int, seed: int, std: float = POLICY_STD) -> None:
    """Write an untrained Qwen2.5-VL with its processor.

    Args:
        folder: Where to; made if needed.
        tokenizer: Of ``jobs.tiny.tokenizer``.
        hidden: Width of the language model, a multiple of 32.
        layers: Its depth.
        seed: Of the weights.
        std: Their standard deviation.
    """
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    config = Qwen2_5_VLConfig(
        text_config=_language(tokenizer, hidden, layers, std),
        vision_config=_vision(hidden, std),
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _save(model, folder, tokenizer)
    size = {"shortest_edge": PIXELS_MIN, "longest_edge": PIXELS_MAX}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)


def save_judge(folder: Path, tokenizer: Any, *, hidden: int, layers: int, seed: int) -> None:
    """Write an untrained Qwen2 with its tokenizer. Arguments as for ``save_policy``."""
    language = _language(tokenizer, hidden, layers, JUDGE_STD)
    language.pop("rope_parameters")
    config = Qwen2Config(**language, tie_word_embeddings=True)
    torch.manual_seed(seed)
    _save(Qwen2ForCausalLM(config), folder, tokenizer)


def parameters(model: torch.nn.Module) -> int:
    """Return how many numbers the model learns; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _save(model: Any, folder: Path, tokenizer: Any) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _language(tokenizer: Any, hidden: int, layers: int, std: float) -> dict[str, Any]:
    head = 32
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head,
        "num_key_value_heads": hidden // head,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "initializer_range": std,
        # Positions in time, height and width share a head's 16 frequencies, as 16, 24, 24 of 64 in the real model.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision(out: int, std: float) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": out,
        "fullatt_block_indexes": [1],
        "window_size": 112,
        "initializer_range": std,
    }
