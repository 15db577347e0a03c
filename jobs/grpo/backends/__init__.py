"""Where the weights being trained live: whole on every rank, or spread over all by FSDP2 or DeepSpeed.

A backend owns parameters, gradients and AdamW's moments; what a step is made of is ``jobs.grpo.policy``'s. Names
are those of ``module.model.named_parameters()``, the same for every backend and any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from jobs.grpo.forward import Batch, ScoringModel
from jobs.grpo.settings import Settings
from orchestrator.errors import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


class Backend(Protocol):
    """One rank's part of a model that is trained by all ranks together.

    Attributes:
        device: Where batches have to be.
        even: Forward and backward are collective: all ranks make equally many, with an image or without together.
    """

    device: torch.device
    even: bool

    def forward(self, batch: Batch, *, entropy_grad: bool = False) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy of every completion token, each ``[N, T]``."""
        ...

    def reference(self, batch: Batch) -> Tensor:
        """Return the start model's log-probabilities, ``[N, T]``. Not between a forward and its backward."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add this rank's part of the gradient of the sum of all ranks' losses; ``last`` of this optimiser step."""
        ...

    def step(self, learning_rate: float) -> float:
        """Take an optimiser step, collective, and forget the gradients; return their norm before clipping.

        A gradient that is not finite changes nothing, and its norm is infinite or NaN. A trained parameter that no
        row has reached has a gradient of zeros: its moments decay, whatever the backend.
        """
        ...

    def value(self, name: str) -> Tensor:
        """Return a parameter, whole and in float32. Collective."""
        ...

    def moments(self, name: str) -> dict[str, Tensor]:
        """Return a trained parameter's ``exp_avg``, ``exp_avg_sq`` and ``step``, whole; {} before a first step."""
        ...

    def restore(self, values: Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]) -> None:
        """Replace trained parameters and their moments by whole ones, those of every rank being the same."""
        ...


def build(
    settings: Settings, module: ScoringModel, reference: ScoringModel | None, *, rank: int, world: int
) -> Backend:
    """Return the backend that the settings name, around ``module``.

    Args:
        settings: Of the role.
        module: Whole, in float32, on any device, the same on every rank. What is not to be trained is frozen.
        reference: The start model; None where it is not needed, or is ``module`` without its adapters.
        rank: Of this process.
        world: Number of ranks. torch.distributed is initialised if it is above 1.

    Raises:
        InputError: Offloading is asked for where nothing can be.
    """
    policy = settings.policy
    if policy.offload and (policy.backend != "deepspeed" or policy.zero_stage == 0):
        raise InputError(
            f"policy.offload: true needs DeepSpeed at stage 1 or above, and the policy has backend {policy.backend!r} "
            f"with zero_stage {policy.zero_stage}. Set backend: deepspeed and zero_stage: 2, or leave offload out."
        )
    if policy.backend == "fsdp2":
        from jobs.grpo.backends.fsdp2 import Fsdp2Backend

        return Fsdp2Backend(settings, module, reference, world=world)
    # DeepSpeed at stage 0 spreads nothing, which is plain data parallelism.
    if policy.backend == "deepspeed" and policy.zero_stage > 0:
        from jobs.grpo.backends.deepspeed_zero import DeepspeedBackend

        return DeepspeedBackend(settings, module, reference, rank=rank, world=world)
    from jobs.grpo.backends.torch_plain import TorchBackend

    return TorchBackend(settings, module, reference, world=world)


def device() -> torch.device:
    """Return where this process computes: its current GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def require_process_group() -> None:
    """Make a process group of this process alone if there is none: what shards a model wants one even then."""
    if not torch.distributed.is_initialized():
        kind = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(kind, store=torch.distributed.HashStore(), rank=0, world_size=1)


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Make a peft model compute as if it had no adapters.

    peft's own ``disable_adapter`` also freezes them meanwhile, which a model that is sharded on its first forward
    would never forget.
    """
    layers = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
