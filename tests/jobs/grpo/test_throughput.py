"""FLOPs against torch's own counter on a real model, and against published shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs import vlm
from jobs.grpo import throughput, trainable
from jobs.grpo.settings import Lora, Policy
from jobs.grpo.throughput import RowSize

GRID = (1, 12, 20)  # windows of 8 by 8 patches do not divide it
COMPLETION = 20


def counted_by_torch(model: Any) -> tuple[int, RowSize]:
    """Return the FLOPs of a forward and backward on one row with an image, as torch counts them, and its size."""
    image, patches = model.config.image_token_id, GRID[0] * GRID[1] * GRID[2]
    ids = torch.tensor([[5] * 7 + [image] * (patches // 4) + [6] * 30])
    with FlopCounterMode(display=False) as counter:
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == image).int(),
            pixel_values=torch.randn(patches, 3 * 2 * 14 * 14),
            image_grid_thw=torch.tensor([GRID]),
            use_cache=False,
            logits_to_keep=COMPLETION,
        )
        output.logits.sum().backward()
    return counter.get_total_flops(), RowSize(tokens=ids.shape[1], completion=COMPLETION, images=(GRID,))


def above_the_diagonal(shape: throughput.Shape, row: RowSize, passes: int) -> float:
    """Return what eager attention computes and masks away: half of a language layer's attention."""
    return passes * 2 * row.tokens**2 * shape.width * shape.layers


@pytest.mark.parametrize(
    ("policy", "passes"),
    [
        pytest.param(Policy(), 3, id="all trained"),
        pytest.param(Policy(train_vision=False), 3, id="frozen vision tower"),
        pytest.param(Policy(gradient_checkpointing=True), 4, id="activations recomputed"),
        pytest.param(Policy(gradient_checkpointing=True, train_vision=False), 4, id="recomputed, frozen vision tower"),
    ],
)
def test_flops_are_what_torch_counts(policy_folder: Path, policy: Policy, passes: int) -> None:
    model = trainable.prepare(vlm.load_model(policy_folder, attention="eager"), policy)
    shape = throughput.shape(model.config)
    assert shape is not None

    expected, row = counted_by_torch(model)
    got = throughput.update_flops(shape, [row], policy, recomputed=True)

    assert got + above_the_diagonal(shape, row, passes) == expected


def test_frozen_weights_that_a_gradient_passes_through_cost_two_thirds(policy_folder: Path) -> None:
    model = vlm.load_model(policy_folder, attention="eager", trainable=False)
    model.get_input_embeddings().requires_grad_(True)
    # The embedding is the head as well, whose gradient of weights adapters do not compute.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    shape = throughput.shape(model.config)
    assert shape is not None

    expected, row = counted_by_torch(model)
    got = throughput.update_flops(shape, [row], Policy(lora=Lora()))

    assert got + above_the_diagonal(shape, row, 3) == expected


def seven_b() -> throughput.Shape:
    """Return Qwen2.5-VL-7B-Instruct's shape, from the numbers in its published config."""
    config = vlm_config(
        text={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision={"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "out_hidden_size": 3584},
    )
    found = throughput.shape(config)
    assert found is not None
    return found


def vlm_config(text: dict[str, int], vision: dict[str, int]) -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def test_a_7b_has_its_published_weights() -> None:
    shape = seven_b()

    assert shape.vision is not None
    assert shape.blocks == 6_525_288_448
    assert shape.head == 544_997_376
    assert shape.vision.blocks == 32 * 1280 * (4 * 1280 + 3 * 3420)
    assert shape.vision.window == 8


def test_a_text_model_has_no_vision_tower() -> None:
    from transformers import Qwen2Config

    shape = throughput.shape(Qwen2Config(hidden_size=64, num_attention_heads=2, num_hidden_layers=3))

    assert shape is not None
    assert shape.vision is None


def test_the_shape_of_another_model_is_unknown() -> None:
    from transformers import LlamaConfig

    assert throughput.shape(LlamaConfig()) is None


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A800-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peak_of(device: str, expected: float | None) -> None:
    assert throughput.peak_flops(device) == expected


def test_mfu_is_the_share_of_all_gpus() -> None:
    shape, rows = seven_b(), [RowSize(tokens=1000, completion=500)]

    found = throughput.mfu(shape, rows, Policy(), seconds=2.0, gpus=4, device="NVIDIA H100 80GB HBM3")

    linear = 6 * (6_525_288_448 * 1000 + 544_997_376 * 500)
    attention = 6 * 1000**2 * 3584 * 28
    assert found == {"perf/mfu/actor": pytest.approx((linear + attention) / (989e12 * 4 * 2))}


def test_recomputed_activations_raise_the_hardwares_share_only() -> None:
    shape, rows = seven_b(), [RowSize(tokens=1000, completion=500)]

    plain = throughput.mfu(shape, rows, Policy(), seconds=2.0, gpus=4, device="NVIDIA H200")
    again = throughput.mfu(shape, rows, Policy(gradient_checkpointing=True), seconds=2.0, gpus=4, device="NVIDIA H200")

    assert again["perf/mfu/actor"] == plain["perf/mfu/actor"]
    # All products a third time but the last, a third of the MLP's, and the head's.
    assert 7 / 6 < again["perf/hfu/actor"] / plain["perf/mfu/actor"] < 8 / 6


@pytest.mark.parametrize("device", [None, "NVIDIA GeForce GTX 1080"])
def test_there_is_no_mfu_where_the_peak_is_unknown(device: str | None) -> None:
    rows = [RowSize(tokens=1000, completion=500)]

    assert throughput.mfu(seven_b(), rows, Policy(), seconds=2.0, gpus=4, device=device) == {}
    assert throughput.mfu(None, rows, Policy(), seconds=2.0, gpus=4, device="NVIDIA H200") == {}


def test_speed_is_per_gpu_under_verls_names() -> None:
    assert throughput.rates(8000, seconds=2.0, gpus=4) == {
        "perf/total_num_tokens": 8000.0,
        "perf/time_per_step": 2.0,
        "perf/throughput": 1000.0,
    }
    assert throughput.rates(8000, seconds=2.0, gpus=0)["perf/throughput"] == 4000.0
