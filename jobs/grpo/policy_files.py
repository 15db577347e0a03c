"""A policy's part of a checkpoint: the same files whatever the backend and however many ranks write them.

Parameters are shared out over ranks whole, by name, so any backend with any number of ranks reads them, and the
``model`` folder is read by whatever reads Hugging Face folders. No pickle is written or read.

    model/model.safetensors            float32; or model-00001-of-00002.safetensors, ..., and an index
    model/config.json, tokenizer.json, ...
    optimizer/optimizer.safetensors    exp_avg/<name>, exp_avg_sq/<name>, step/<name>; likewise
    optimizer/policy.json              how many optimiser steps these weights have behind them
    adapter/                           with LoRA, a peft folder; model/ then holds weights and adapters in one
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from jobs.grpo import checkpoint, trainable, weights_file
from jobs.grpo.backends import MOMENTS, STEP, Backend, shares
from jobs.grpo.checkpoint import MODEL_FOLDER, Digest
from jobs.grpo.settings import Lora
from jobs.grpo.weights_file import Reader
from orchestrator.errors import InputError
from orchestrator.files import private_folder, read_json

OPTIMIZER_FOLDER = "optimizer"
ADAPTER_FOLDER = "adapter"
FACTS = "policy.json"


class Plain:
    """What belongs to a Hugging Face folder besides parameters, noted before anything is put around the model.

    Attributes:
        aliases: Further names of tied parameters, and the name that ``named_parameters`` gives.
        buffers: Those that are saved with the parameters.
        saved: What ``save_pretrained`` calls each parameter and buffer.
        files: The folder's other files, by name.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        """Note all this of a model on the CPU."""
        first: dict[int, str] = {}
        self.aliases: dict[str, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if first.setdefault(id(parameter), name) != name:
                self.aliases[name] = first[id(parameter)]
        known = {*first.values(), *self.aliases}
        self.buffers = {name: value.clone() for name, value in model.state_dict().items() if name not in known}
        self.saved = {name: _saved_name(model, name) for name in (*first.values(), *self.buffers)}
        self.files = _static_files(model, processor)


class Weights:
    """The parameters of a model that is going to be spread over ranks, and where each is written to.

    Attributes:
        plain: Of the model.
        sizes: Numbers in each parameter, by its name in the plain model.
        trained: Numbers in each trained parameter, by its name in the model.
        adapters: Names of the adapters' parameters in the model.
    """

    def __init__(self, plain: Plain, model: nn.Module, lora: Lora | None) -> None:
        """Note names and sizes of a prepared model that is still whole."""
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        self.plain = plain
        self.adapters = [name for name in sizes if ".lora_" in name]
        self.trained = {
            name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._inner = {_plain_name(name): name for name in sizes if name not in self.adapters}
        self.sizes = {name: sizes[inner] for name, inner in self._inner.items()}
        self._scale = lora.alpha / lora.rank if lora else 0.0

    @torch.no_grad()
    def merged(self, backend: Backend, name: str) -> Tensor:
        """Return a parameter of the plain model, adapters added to what they adapt. Collective."""
        inner = self._inner[name]
        value = backend.value(inner)
        layer, adapted, _ = inner.partition(".base_layer.weight")
        if not adapted:
            return value
        down, up = (backend.value(f"{layer}.lora_{part}.{trainable.ADAPTER}.weight") for part in "AB")
        return value + (up @ down) * self._scale


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's part of the tensors of a folder, and the index over those of all ranks."""

    tensors: dict[str, Tensor]
    index: dict[str, int]
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One rank's share of weights and moments in the memory of the CPU.

    Attributes:
        version: Optimiser steps behind it.
        model: Of the plain model, under the names of a Hugging Face folder.
        optimizer: AdamW's moments and steps.
        adapter: All adapters, on rank 0.
    """

    version: int
    model: Share
    optimizer: Share
    adapter: dict[str, Tensor]


def take(weights: Weights, backend: Backend, version: int, *, rank: int, world: int) -> Snapshot:
    """Copy this rank's share. Collective; at no time does a rank hold more than that and one whole parameter."""
    owners = shares.of_parameters(weights.sizes, world)
    model: dict[str, Tensor] = {}
    for name, owner in owners.items():
        _keep(model, weights.plain.saved[name], weights.merged(backend, name), owner == rank)
    index = {weights.plain.saved[name]: owner for name, owner in owners.items()}
    buffers = {weights.plain.saved[name]: value for name, value in weights.plain.buffers.items()}
    model |= buffers if rank == 0 else {}
    index |= dict.fromkeys(buffers, 0)
    adapter: dict[str, Tensor] = {}
    for name in weights.adapters:
        _keep(adapter, name, backend.value(name), rank == 0)
    return Snapshot(
        version=version,
        model=Share(
            tensors=model, index=index | dict.fromkeys(buffers, 0), total_bytes=4 * sum(weights.sizes.values())
        ),
        optimizer=_moments(weights, backend, rank, world),
        adapter=adapter,
    )


def write(taken: Snapshot, folder: Path, weights: Weights, model: Any, *, rank: int, world: int) -> dict[str, Digest]:
    """Write a snapshot below ``folder`` and flush it to the disk; return what this rank wrote, by relative path.

    Args:
        taken: Of this rank.
        folder: Of the checkpoint, the same for all ranks.
        weights: Of the policy.
        model: The prepared one; asked for what its adapters are.
        rank: Of this process.
        world: Number of ranks.
    """
    wrote = _write_share(folder / MODEL_FOLDER, "model", taken.model, rank, world)
    wrote |= _write_share(folder / OPTIMIZER_FOLDER, "optimizer", taken.optimizer, rank, world)
    if rank == 0:
        facts = json.dumps({"version": taken.version, "ranks": world}).encode()
        others = {folder / MODEL_FOLDER / name: content for name, content in weights.plain.files.items()}
        others[folder / OPTIMIZER_FOLDER / FACTS] = facts
        wrote |= {path: weights_file.write_bytes(path, [content]) for path, content in others.items()}
    if rank == 0 and weights.adapters:
        adapter = private_folder(folder / ADAPTER_FOLDER)
        trainable.save_adapter(model, adapter, taken.adapter)
        wrote |= {path: checkpoint.digest(path, sync=True) for path in adapter.iterdir()}
    return {str(path.relative_to(folder)): found for path, found in wrote.items()}


def read(folder: Path, weights: Weights) -> Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]:
    """Yield every trained parameter of a checkpoint with its moments; {} if it was never trained.

    Raises:
        InputError: The checkpoint is of another model, or of other adapters.
    """
    values, moments = Reader(folder / MODEL_FOLDER), Reader(folder / OPTIMIZER_FOLDER)
    adapter = Reader(folder / ADAPTER_FOLDER) if weights.adapters else Reader(folder / MODEL_FOLDER)
    for name, numbers in weights.trained.items():
        holder, key = (adapter, _peft_name(name)) if name in weights.adapters else (values, weights.plain.saved[name])
        found = holder.get(key)
        if found is None or found.numel() != numbers:
            there = "none of that name" if found is None else f"one of shape {list(found.shape)}"
            raise InputError(
                f"{folder}: the policy trains {key} of {numbers} numbers, and the checkpoint has {there}. It is of "
                "another model or of other adapters. Resume with the settings that it was trained with."
            )
        kinds = {kind: moments.get(f"{kind}/{name}") for kind in (*MOMENTS, STEP)}
        yield name, found, {kind: value for kind, value in kinds.items() if value is not None}


def version(folder: Path) -> int:
    """Return the optimiser steps behind a checkpoint's weights."""
    facts = read_json(folder / OPTIMIZER_FOLDER / FACTS)
    if facts is None:
        raise InputError(f"{folder}: it has no {OPTIMIZER_FOLDER}/{FACTS}, so it is no checkpoint of a policy.")
    steps: int = facts["version"]
    return steps


def _moments(weights: Weights, backend: Backend, rank: int, world: int) -> Share:
    owners = shares.of_parameters(weights.trained, world)
    tensors: dict[str, Tensor] = {}
    index: dict[str, int] = {}
    for name, owner in owners.items():
        for kind, value in backend.moments(name).items():
            index[f"{kind}/{name}"] = owner
            _keep(tensors, f"{kind}/{name}", value, owner == rank)
    return Share(tensors=tensors, index=index, total_bytes=8 * sum(weights.trained.values()) if index else 0)


def _keep(held: dict[str, Tensor], name: str, value: Tensor, mine: bool) -> None:
    if mine:
        held[name] = value.detach().to("cpu", copy=True)


def _write_share(folder: Path, stem: str, share: Share, rank: int, world: int) -> dict[Path, Digest]:
    private_folder(folder)
    path = folder / weights_file.name(stem, rank, world)
    wrote = {path: weights_file.write(path, share.tensors)}
    if rank == 0 and world > 1:
        files = {name: weights_file.name(stem, owner, world) for name, owner in share.index.items()}
        index = folder / f"{stem}.safetensors.index.json"
        wrote[index] = weights_file.write_bytes(index, [weights_file.index(files, share.total_bytes)])
    return wrote


def _static_files(model: Any, processor: Any) -> dict[str, bytes]:
    """Return configuration and processor as ``save_pretrained`` would write them beside the weights."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = "float32"
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _saved_name(model: Any, name: str) -> str:
    """Return the name that ``save_pretrained`` would write.

    Raises:
        InputError: It would write something else than this one tensor.
    """
    saved = list(revert_weight_conversion(model, {name: torch.empty(0)}))
    if len(saved) != 1:
        raise InputError(
            f"model: {type(model).__name__} keeps {name} in another form than its files do, which a checkpoint that is "
            "written parameter by parameter cannot follow. Train a model of the Qwen families."
        )
    return saved[0]


def _plain_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _peft_name(name: str) -> str:
    return name.replace(f".{trainable.ADAPTER}.", ".")
