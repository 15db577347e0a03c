"""What we add to vLLM's worker, by its own two plug points: one for weights, one for methods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from jobs.grpo.sampling import tempered_logits

HAND_OVER = "hand-over"
RESTRICTED = f"{__name__}.Restricted"


@dataclass
class NoRendezvous(WeightTransferInitInfo):
    """There is nobody to meet: the weights come with the call."""


@dataclass
class AllWeights(WeightTransferUpdateInfo):
    """One update.

    Attributes:
        weights: All weights, named as the Hugging Face model names them, on any device.
    """

    weights: dict[str, Tensor]


class HandOver(WeightTransferEngine[NoRendezvous, AllWeights]):
    """Loads weights that were handed over as tensors; vLLM's mapper translates names, stacks and shards.

    The reload is layerwise: layers keep weights packed for their kernels, and what is merely copied into a
    parameter does not reach the packed copy.
    """

    init_info_cls = NoRendezvous
    update_info_cls = AllWeights

    def init_transfer_engine(self, init_info: NoRendezvous) -> None:
        """Do nothing."""

    def start_weight_update(self) -> None:
        self._expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: AllWeights) -> None:
        loaded = self.model.load_weights(update_info.weights.items())
        missing = sorted(self._expected - loaded)
        if missing:
            raise RuntimeError(f"weight sync: the policy gave no weights for {len(missing)} of vLLM's: {missing[:5]}.")

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Do nothing."""


class Restricted:
    """Methods mixed into vLLM's worker, to be called by name."""

    def restrict(self, banned: Sequence[int], temperature: float) -> None:
        """Make the model's logits those of the distribution that responses are drawn from.

        vLLM applies temperature and bans where it samples, but not to the log-probabilities of a
        prompt. Applied to the logits they hold for both, and both come from the trainer's own function.
        """
        worker: Any = self
        model = worker.model_runner.get_model()
        compute_logits = model.compute_logits
        # On the device once: to copy it there at every step would make each step wait for the one before.
        banned_K = torch.tensor(banned, dtype=torch.long, device=worker.device)

        def restricted(hidden_states: Tensor) -> Tensor:
            return tempered_logits(compute_logits(hidden_states), banned_K, temperature)

        model.compute_logits = restricted


WeightTransferEngineFactory.register_engine(HAND_OVER, HandOver)
# At every sync it warns of rotary embeddings and the like, which have no weights. What is missing, ``HandOver`` tells.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
