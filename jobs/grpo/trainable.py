"""What of a model is trained: all of it, all but the vision tower, or low-rank adapters of the language model.

An adapter stays beside the weights it adapts; ``full_weights`` gives their sum to those who know nothing of it.
Adapters are kept as peft folders, safetensors and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from jobs import vlm
from jobs.grpo.settings import Lora, Policy
from orchestrator.errors import InputError

ADAPTER = "default"
ADAPTER_FILE = "adapter_model.safetensors"


def prepare(model: Any, policy: Policy, *, seed: int = 1, adapter: Path | None = None) -> Any:
    """Return the model with what is not trained frozen: itself, or with ``policy.lora`` peft's model around it.

    Args:
        model: Of ``vlm.load_model``; changed in place.
        policy: What to train and whether to recompute activations.
        seed: Of new adapters; ranks that share one start with the same. New adapters change no output.
        adapter: A folder of ``save_adapter`` to continue from.

    Raises:
        InputError: A target is no linear layer of the language model, or the folder holds other adapters.
    """
    if not policy.train_vision and (tower := vlm.vision_tower(model)) is not None:
        tower.requires_grad_(False)
    if policy.gradient_checkpointing:
        _checkpoint_activations(model)
    if policy.lora is None:
        return model
    adapted = _with_lora(model, policy.lora, seed)
    if adapter is not None:
        _load_adapter(adapted, adapter)
    return adapted


def plain(model: Any) -> Any:
    """Return the Hugging Face model within a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def full_weights(model: Any, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return all weights by the names of the plain Hugging Face model, adapters added to what they adapt.

    The model itself is not changed, so that its adapters stay what they are, bit for bit.

    Args:
        model: Of ``prepare``. Only names are read off it if ``values`` are given.
        values: Whole tensors by the names of ``model.named_parameters()``: of a model that is sharded, or was in the
            past. Of tied parameters one name is enough.

    Returns:
        New tensors where an adapter was added; all others are those of the model or ``values``.
    """
    held = dict(model.state_dict() if values is None else values)
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(name, held[first.setdefault(id(parameter), name)])
    if not _is_adapted(model):
        return held
    scale = _scale(model)
    return {_plain_name(name): _merged(held, name, scale) for name in held if ".lora_" not in name}


def save_adapter(model: Any, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters as a peft folder, which ``PeftModel.from_pretrained`` reads too.

    Args:
        model: Of ``prepare`` with ``policy.lora``.
        folder: Made if needed.
        values: As for ``full_weights``.
    """
    state = None if values is None else dict(values)
    # "auto" would ask the hub whether the vocabulary has grown.
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)


def _checkpoint_activations(model: Any) -> None:
    model.gradient_checkpointing_enable()
    # It makes all inputs require a gradient, for checkpointing of the old kind; a frozen tower would have a backward.
    model.disable_input_require_grads()
    # transformers recomputes in training mode only. The flag is set on these layers and not on what is in them,
    # so that no dropout is switched on.
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _with_lora(model: Any, lora: Lora, seed: int) -> Any:
    # Imported late: its import takes seconds and reads transformers' image classes, for which vlm has to be first.
    import peft

    training = {name: module.training for name, module in model.named_modules()}
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=_target_pattern(model, lora.targets), task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, config, adapter_name=ADAPTER)
    model.disable_input_require_grads()  # which peft enables again
    adapted.eval()
    for name, module in model.named_modules():
        module.training = training.get(name, False)
    return adapted


def _target_pattern(model: Any, targets: Sequence[str]) -> str:
    """Return what full names peft is to match. The vision tower has layers of the same names, hence no list."""
    tower = vlm.vision_tower(model)
    seen = {id(module) for module in tower.modules()} if tower is not None else set()
    seen.add(id(model.get_output_embeddings()))
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in seen]
    there = sorted({name.rpartition(".")[2] for name in linear})
    unknown = [target for target in targets if target not in there]
    if unknown:
        raise InputError(
            f"policy.lora.targets: the language model has no linear layer named {', '.join(map(repr, unknown))}. "
            f"It has {', '.join(there)}."
        )
    above = sorted({name.partition(".layers.")[0] for name in linear})
    return f"(?:{'|'.join(map(re.escape, above))})\\.layers\\..*\\.(?:{'|'.join(map(re.escape, targets))})"


def _load_adapter(model: Any, folder: Path) -> None:
    import peft

    wanted = peft.get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    found = load_file(folder / ADAPTER_FILE)
    shapes = ({name: tuple(value.shape) for name, value in each.items()} for each in (wanted, found))
    if len({tuple(sorted(each.items())) for each in shapes}) != 1:
        raise InputError(
            f"{folder}: its adapters are not those of policy.lora, which has rank {model.peft_config[ADAPTER].r} and "
            f"{len(wanted)} tensors; the file has {len(found)}. Set policy.lora as it was when they were saved."
        )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(found[name])


def _is_adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


def _scale(model: Any) -> float:
    config = model.peft_config[ADAPTER]
    return float(config.lora_alpha / config.r)


@torch.no_grad()
def _merged(held: Mapping[str, Tensor], name: str, scale: float) -> Tensor:
    layer, found, rest = name.partition(".base_layer.")
    if not found or rest != "weight":
        return held[name]
    down, up = (held[f"{layer}.lora_{part}.{ADAPTER}.weight"] for part in "AB")
    return held[name] + (up @ down) * scale


def _plain_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
