"""Plain torch: every rank has the whole model, and gradients are summed over ranks once a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from jobs.grpo.backends import MOMENTS, STEP, device, without_adapters
from jobs.grpo.forward import Batch, ScoringModel
from jobs.grpo.settings import Settings

BUCKET = 2**25
"""Numbers summed over ranks in one call."""


class TorchBackend:
    """Master weights in float32, forward in the settings' dtype by autocast, AdamW."""

    even = False

    def __init__(self, settings: Settings, module: ScoringModel, reference: ScoringModel | None, *, world: int) -> None:
        self.device = device()
        self.world = world
        self.policy = settings.policy
        self._module = self._placed(module)
        self._reference = None if reference is None else self._placed(reference)
        self._parameters = dict(module.model.named_parameters())
        self._trained = {name: p for name, p in self._parameters.items() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.policy.learning_rate, weight_decay=settings.policy.weight_decay
        )

    def forward(self, batch: Batch, *, entropy_grad: bool = False) -> tuple[Tensor, Tensor]:
        with self._autocast():
            return self._module(batch, entropy_grad=entropy_grad)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Tensor:
        with self._autocast():
            if self._reference is not None:
                return self._reference(batch)[0]
            with without_adapters(self._module.model):
                return self._module(batch)[0]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        del last
        loss.backward()

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        gradients = self._gradients()
        norm_0 = _whole(torch.nn.utils.get_total_norm(gradients))
        norm = float(norm_0)
        if math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(self._trained.values(), self.policy.max_grad_norm, norm_0)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def value(self, name: str) -> Tensor:
        return _whole(self._parameters[name].detach())

    def moments(self, name: str) -> dict[str, Tensor]:
        state = self._optimizer.state.get(self._trained[name], {})
        return {key: _whole(value) for key, value in state.items()}

    @torch.no_grad()
    def restore(self, values: Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]) -> None:
        for name, value, moments in values:
            parameter = self._trained[name]
            parameter.copy_(self._spread(parameter, value))
            self._optimizer.state.pop(parameter, None)
            if moments:
                self._optimizer.state[parameter] = {STEP: moments[STEP].to("cpu", copy=True)} | {
                    key: torch.zeros_like(parameter).copy_(self._spread(parameter, moments[key])) for key in MOMENTS
                }

    def _placed(self, module: ScoringModel) -> ScoringModel:
        return module.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.policy.dtype == "bfloat16")

    def _spread(self, parameter: Tensor, whole: Tensor) -> Tensor:
        """Return a whole value in the form that this rank holds the parameter in."""
        return whole.to(parameter.device)

    def _gradients(self) -> list[Tensor]:
        """Return the gradients of all trained parameters, summed over ranks."""
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        self._sum_over_ranks(gradients)
        return gradients

    def _sum_over_ranks(self, gradients: Sequence[Tensor]) -> None:
        if self.world == 1:
            return
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            sums = flat.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view_as(gradient))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors, in their order, a bucket at a time."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
