"""FSDP2: weights, gradients and moments are spread over all ranks, block by block; each block is whole while in use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from jobs.grpo.backends import require_process_group
from jobs.grpo.backends.torch_plain import TorchBackend
from jobs.grpo.forward import ScoringModel
from jobs.grpo.settings import Settings


class Fsdp2Backend(TorchBackend):
    """Shards of float32 master weights; blocks are gathered, and computed, in the settings' dtype."""

    even = True

    def __init__(self, settings: Settings, module: ScoringModel, reference: ScoringModel | None, *, world: int) -> None:
        require_process_group()
        super().__init__(settings, module, reference, world=world)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        del last
        # FSDP2 averages gradients over ranks, and the loss of a step is a sum.
        (loss * self.world).backward()

    def _placed(self, module: ScoringModel) -> ScoringModel:
        return spread(module, self.world, self.device, self.policy.dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)

    def _spread(self, parameter: Tensor, whole: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor), "FSDP2 has sharded every parameter"
        # Every rank has the whole value and takes its part without asking another.
        value = whole.to(self.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def _sum_over_ranks(self, gradients: Sequence[Tensor]) -> None:
        """Nothing: the backward pass has done it."""


def spread(module: ScoringModel, world: int, device: torch.device, dtype: str) -> ScoringModel:
    """Shard a module that is whole on every rank, in place, and return it.

    The module may still be on the CPU: each block goes to the device and is cut up there before the next one.
    """
    mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (world,))
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    precision = low if dtype == "bfloat16" else MixedPrecisionPolicy()
    for block in blocks(module.model):
        fully_shard(block, mesh=mesh, mp_policy=precision)
    return fully_shard(module, mesh=mesh, mp_policy=precision)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the layers that transformers says are used as a whole."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]
