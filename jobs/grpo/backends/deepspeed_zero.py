"""DeepSpeed ZeRO at stages 1 to 3: what is spread over ranks is the optimiser, gradients too, weights too.

In bfloat16 the weights are held in it, beside the float32 master weights of which every rank has a part.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from jobs.grpo.backends import MOMENTS, STEP, device, fsdp2, require_process_group, without_adapters
from jobs.grpo.forward import Batch, ScoringModel
from jobs.grpo.settings import Settings

BUCKET = 2**28
"""Most numbers that DeepSpeed reduces in one call."""


class DeepspeedBackend:
    """An engine of DeepSpeed around the module, with torch's AdamW."""

    even = True

    def __init__(
        self, settings: Settings, module: ScoringModel, reference: ScoringModel | None, *, rank: int, world: int
    ) -> None:
        require_process_group()
        self.device = device()
        self.policy = settings.policy
        self.rank = rank
        self.world = world
        self._stage = settings.policy.zero_stage
        self._module = module
        self._reference = None if reference is None else self._placed(reference)
        self._parameters = dict(module.model.named_parameters())
        self._trained = {name: p for name, p in self._parameters.items() if p.requires_grad}
        rounded = _rounded(self._trained) if settings.policy.dtype == "bfloat16" else {}
        self._deepspeed = _deepspeed(self.device)
        optimizer = torch.optim.AdamW(
            list(self._trained.values()), lr=0.0, weight_decay=settings.policy.weight_decay, fused=True
        )
        self._engine, *_ = self._deepspeed.initialize(
            model=module, optimizer=optimizer, config=self._config(), dist_init_required=False
        )
        self._allocate_moments()
        if rounded:
            self.restore((name, value, {}) for name, value in rounded.items())

    def forward(self, batch: Batch, *, entropy_grad: bool = False) -> tuple[Tensor, Tensor]:
        logp_NT, entropy_NT = self._engine(batch, entropy_grad=entropy_grad)
        return logp_NT, entropy_NT

    @torch.no_grad()
    def reference(self, batch: Batch) -> Tensor:
        if self._reference is not None:
            bfloat16 = self.policy.dtype == "bfloat16" and self._stage < 3
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                logp_NT, _ = self._reference(batch)
        else:
            with without_adapters(self._module.model):
                logp_NT, _ = self._engine(batch)
        return logp_NT

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over ranks, and the loss of a step is a sum.
        self._engine.backward(loss * self.world)

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        self._forget_gradients()
        return math.inf if self._engine.optimizer.overflow else float(self._engine.get_global_grad_norm())

    def value(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if name in self._trained:
            whole: Tensor = self._deepspeed.utils.safe_get_full_fp32_param(parameter)
            return whole.detach()
        with self._deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
            return parameter.detach().float().clone()

    def moments(self, name: str) -> dict[str, Tensor]:
        get = self._deepspeed.utils.safe_get_full_optimizer_state
        steps = self._steps()
        if steps == 0:
            return {}
        return {STEP: torch.tensor(steps)} | {key: get(self._trained[name], key) for key in MOMENTS}

    @torch.no_grad()
    def restore(self, values: Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]) -> None:
        steps = 0.0
        for name, value, moments in values:
            self._set(name, value)
            for key in MOMENTS:
                self._set(name, moments[key] if moments else torch.zeros_like(value), key)
            steps = max(steps, float(moments[STEP]) if moments else 0.0)
        for state in self._engine.optimizer.optimizer.state.values():
            state[STEP].fill_(steps)
        self._publish()

    def _set(self, name: str, whole: Tensor, key: str | None = None) -> None:
        """Replace this rank's part of a master weight, or of one of its moments."""
        utils, parameter, value = self._deepspeed.utils, self._trained[name], whole.to(self.device)
        if self._stage < 3 and key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        elif self._stage < 3:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        else:
            # DeepSpeed's way to set a whole value at stage 3 fails where ranks do not divide it.
            part = parameter.ds_tensor.numel()
            padded = torch.nn.functional.pad(value.flatten(), (0, part * self.world - value.numel()))
            parameter._z3_optimizer.set_local_hp_param(padded[self.rank * part :][:part], parameter, key)

    def _forget_gradients(self) -> None:
        """Zero what DeepSpeed would add to, or take for, the gradient of a parameter that the next step's micro-batches
        do not all reach."""
        zero = self._engine.optimizer
        stale: list[Tensor] = []
        if self._stage == 3:
            stale.append(zero.grad_partitions_flat_buffer)
        if self.policy.offload:
            flats = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
            stale += [flat.grad for flat in flats]
        if self.policy.offload and self._stage < 3:
            stale += zero.accumulated_grads_in_cpu.values()
        for gradients in stale:
            gradients.zero_()

    def _placed(self, reference: ScoringModel) -> ScoringModel:
        """Return the start model spread over ranks if the policy's weights are."""
        if self._stage < 3:
            return reference.to(self.device)
        return fsdp2.spread(reference, self.world, self.device, self.policy.dtype)

    def _config(self) -> dict[str, Any]:
        numbers = sum(parameter.numel() for parameter in self._trained.values())
        hidden = self._module.model.config.get_text_config().hidden_size
        zero: dict[str, Any] = {
            "stage": self._stage,
            "reduce_bucket_size": min(BUCKET, numbers),
            "allgather_bucket_size": min(BUCKET, numbers),
            # Norms and biases stay whole on every rank: gathering them costs more than they take.
            "stage3_param_persistence_threshold": 2 * hidden,
        }
        if self.policy.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        if self.policy.offload and self._stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        return {
            # Of no consequence: micro-batches are ours, and the last one of a step is told to the engine.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.policy.max_grad_norm,
            "zero_optimization": zero,
            # Otherwise the offloaded optimiser has to be DeepSpeed's own, which is compiled when first used.
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": self.policy.dtype == "bfloat16", "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "steps_per_print": sys.maxsize,
        }

    def _allocate_moments(self) -> None:
        """Make the moments that DeepSpeed makes in its first step: a checkpoint is loaded before that."""
        zero = self._engine.optimizer
        groups = [flat for group in zero.optimizer.param_groups for flat in group["params"]]
        for flat in zero.fp32_partitioned_groups_flat if self._stage == 3 else groups:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            zero.optimizer.state[flat] = {STEP: torch.zeros((), device=flat.device), **moments}
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def _steps(self) -> float:
        return max((float(state[STEP]) for state in self._engine.optimizer.optimizer.state.values()), default=0.0)

    def _publish(self) -> None:
        """Give every rank's working copy of the weights what the master weights say."""
        zero = self._engine.optimizer
        if self._stage < 3:
            zero.update_lp_params()
            return
        for index in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(index)
        zero._partition_all_parameters()
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _deepspeed(device: torch.device) -> Any:
    """Return the package, told which device to use, which it takes from the environment."""
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # DeepSpeed's own use of torch, told anew in every call.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    # Compiled with g++ when first used, for half a minute; gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed


def _rounded(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of all parameters if bfloat16 cannot hold them: DeepSpeed makes its master weights of that."""
    if all(torch.equal(p.bfloat16().float(), p) for p in parameters.values()):
        return {}
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
