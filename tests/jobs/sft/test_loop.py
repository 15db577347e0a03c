from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs import vlm
from jobs.entry import Drain
from jobs.sft import loop
from jobs.sft.settings import Settings
from orchestrator.errors import InputError
from orchestrator.progress import Progress
from tests.jobs.sft.conftest import EXAMPLES


def settings(base: Path, **changes: object) -> Settings:
    values = {"model": str(base), "path": "-", "steps": 60, "batch": 6, "micro_batch": 6, "learning_rate": 1e-2}
    return Settings.model_validate(values | changes)


def train(base: Path, out: Path, **changes: object) -> float | None:
    return loop.train(settings(base, **changes), EXAMPLES, out / "model", Progress(out / "progress", "sft"), Drain())


def test_it_learns_and_leaves_a_folder_that_loads(base: Path, tmp_path: Path) -> None:
    loss = train(base, tmp_path)

    assert loss is not None
    assert loss < 1.0
    model, processor = vlm.load_model(tmp_path / "model"), vlm.load_processor(tmp_path / "model")
    prompt = vlm.encode(processor, "Say no.", [])
    out = model.generate(**vlm.pad_left([prompt], vlm.pad_id(processor)), max_new_tokens=4, do_sample=False)
    assert vlm.decode(processor, out[0, len(prompt.input_ids) :].tolist()) == "no"
    lines = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]


def test_the_gradient_does_not_depend_on_micro_batches(base: Path, tmp_path: Path) -> None:
    for size in (2, 6):
        train(base, tmp_path / str(size), micro_batch=size, steps=1, learning_rate=1.0, max_grad_norm=1e9)

    two, six = (vlm.load_model(tmp_path / size / "model").state_dict() for size in ("2", "6"))

    moved = vlm.load_model(base).state_dict()
    assert any(not torch.equal(six[name], moved[name]) for name in six)
    for name in six:
        # AdamW's first step is the sign of the gradient, so a wrong gradient shows as a difference of 2.
        assert ((two[name] - six[name]).abs() > 0.1).float().mean() < 0.01, name


def test_the_same_seed_gives_the_same_weights(base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(base, tmp_path / name, steps=5)

    first, second = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b"))

    assert first == second


def test_a_drained_training_leaves_no_model(base: Path, tmp_path: Path) -> None:
    drain = Drain()
    drain.requested = True

    loss = loop.train(settings(base), EXAMPLES, tmp_path / "model", Progress(tmp_path / "p", "sft"), drain)

    assert loss is None
    assert not (tmp_path / "model").exists()


def test_a_long_example_is_an_error_that_names_it(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than max_tokens=4"):
        train(base, tmp_path, max_tokens=4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        pytest.param("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0], id="constant"),
        pytest.param("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], id="linear"),
        pytest.param("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], id="cosine"),
    ],
)
def test_the_rate_rises_then_falls(schedule: str, expected: list[float]) -> None:
    given = settings(Path("m"), schedule=schedule, steps=6, warmup_steps=2, learning_rate=1.0)

    assert [loop.learning_rate(given, step, 6) for step in range(1, 7)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("prompt_weight", "teaches"), [(0.0, False), (0.5, True)])
def test_only_the_reply_teaches_unless_asked_otherwise(base: Path, prompt_weight: float, teaches: bool) -> None:
    processor = vlm.load_processor(base)
    model = vlm.load_model(base)
    row = loop._row(processor, EXAMPLES[0], 0, 100)
    given = settings(base, prompt_weight=prompt_weight)
    first = len(row.prompt.input_ids)
    whole = loop.Whole(reply_tokens=len(row.reply), prompt_tokens=first - 1)

    loss, reply = loop._loss(model, [row], vlm.pad_id(processor), given, whole)

    ids = [*row.prompt.input_ids, *row.reply]
    logp = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0].detach()
    lost = [-float(logp[i - 1, ids[i]]) for i in range(1, len(ids))]
    expected = sum(lost[first - 1 :]) / len(row.reply)
    assert float(reply.detach()) == pytest.approx(expected, abs=1e-4)
    if teaches:
        expected += prompt_weight * sum(lost[: first - 1]) / (first - 1)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-4)
