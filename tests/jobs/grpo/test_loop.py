"""The loop in one process, without a judge: what it leaves behind, and how it goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.entry import DRAINED, Context, Drain
from jobs.grpo import checkpoint, collector, loop
from jobs.grpo.settings import Settings
from jobs.grpo.trainer import Trainer
from orchestrator import ledger
from orchestrator.errors import ConflictError, InputError
from orchestrator.files import read_json
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

STEPS = 5

Make = Callable[..., tuple[Context, Settings]]


@pytest.fixture
def make(tmp_path: Path, policy_folder: Path, data_file: Path) -> Make:
    return maker(tmp_path, policy_folder, data_file)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, data_file: Path) -> Context:
    """An undisturbed run, finished; to be read only."""
    context, settings = maker(tmp_path_factory.mktemp("undisturbed"), policy_folder, data_file)("straight")
    assert train(context, settings) == 0
    return context


def maker(folder: Path, policy_folder: Path, data_file: Path) -> Make:
    """Return what makes contexts and settings of runs in ``folder``."""

    def build(name: str, *, generation: int = 1, **changes: Any) -> tuple[Context, Settings]:
        run = RunDirectory(folder / name)
        run.create()
        values = {
            "model": str(policy_folder),
            "data": {"path": str(data_file)},
            "rewards": {"repetition": {"weight": 1.0, "ngram": 1}},
            "engine": {"max_new_tokens": 8},
            "policy": {"learning_rate": 1e-3},
            "steps": STEPS,
            "prompts_per_step": 5,
            "samples_per_prompt": 2,
            "checkpoint": {"every_steps": 2},
            "ray": False,
        }
        context = Context(
            run=run,
            role="train",
            generation=generation,
            plan=None,
            ledger=Ledger(run.ledger, generation),
            progress=Progress(run.progress, "train"),
        )
        return context, Settings.model_validate(values | changes)

    return build


def train(context: Context, settings: Settings, drain: Drain | None = None) -> int:
    return asyncio.run(loop.train(context, settings, drain or Drain()))


class DrainAtStep(Drain):
    """Asks to stop as soon as the step of that number is being collected."""

    def __init__(self, context: Context, step: int) -> None:
        super().__init__()
        self._metrics = context.run.metrics
        self._step = step

    @property
    def requested(self) -> bool:
        return self._metrics.exists() and len(self._metrics.read_text().splitlines()) >= self._step - 1

    @requested.setter
    def requested(self, _: bool) -> None: ...


def test_a_finished_run_has_committed_its_last_step(straight: Context) -> None:
    assert checkpoint.steps(straight.run.checkpoints) == [4, 5]
    outputs = read_json(straight.run.outputs / "train.json")
    assert outputs is not None
    assert Path(outputs["model"], "config.json").is_file()
    steps = [json.loads(line)["step"] for line in straight.run.metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


def test_every_response_is_in_the_rollouts_with_its_rewards_and_image(straight: Context) -> None:
    rollouts = [json.loads(line) for line in straight.run.rollouts.read_text().splitlines()]
    assert len(rollouts) == STEPS * 5 * 2
    first = rollouts[0]
    assert set(first["rewards"]) == {"repetition"}
    assert first["total"] == first["rewards"]["repetition"]
    assert (straight.run.path / first["images"][0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_drained_and_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    make: Make, straight: Context, step: int
) -> None:
    first, settings = make("drained")
    second, _ = make("drained", generation=2)

    assert train(first, settings, DrainAtStep(first, step)) == DRAINED
    assert train(second, settings) == 0

    assert history(second) == history(straight)
    assert_same_tensors(final(straight), final(second))


def test_a_run_killed_between_checkpoints_equals_an_undisturbed_one_bit_for_bit(make: Make, straight: Context) -> None:
    first, settings = make("killed")
    second, _ = make("killed", generation=2)
    train(first, settings.model_copy(update={"steps": 4}))
    # As after kill -9 behind step 3: its lines are written, its checkpoint is not.
    folder = first.run.checkpoints / "step_00000004"
    folder.rename(folder.with_name(".step_00000004.dead.tmp"))

    assert train(second, settings) == 0

    assert history(second) == history(straight)
    assert_same_tensors(final(straight), final(second))


def test_a_finished_run_started_again_does_nothing(make: Make, straight: Context, tmp_path: Path) -> None:
    shutil.copytree(straight.run.path, tmp_path / "again")

    again, settings = make("again", generation=2)
    assert train(again, settings) == 0

    assert again.run.metrics.read_bytes() == straight.run.metrics.read_bytes()


def test_an_older_attempt_cannot_commit(make: Make) -> None:
    context, settings = make("fenced")
    Ledger(context.run.ledger, 2).append("attempt_started", attempt=2)

    with pytest.raises(ConflictError, match="attempt 2 of this run has begun"):
        train(context, settings)

    assert checkpoint.steps(context.run.checkpoints) == []


class SuccessorAtStep(DrainAtStep):
    """Never asks to stop; lets a newer attempt begin as soon as the step of that number is being collected."""

    def __init__(self, context: Context, step: int) -> None:
        super().__init__(context, step)
        self._run = context.run
        self.found: dict[str, bytes] = {}

    @property
    def requested(self) -> bool:
        if DrainAtStep.requested.fget(self) and not self.found:  # type: ignore[attr-defined]
            Ledger(self._run.ledger, 2).append("attempt_started", attempt=2)
            self.found = contents(self._run)
        return False

    @requested.setter
    def requested(self, _: bool) -> None: ...


def contents(run: RunDirectory) -> dict[str, bytes]:
    """Return what a run is remembered by: its records, checkpoints and ledger."""
    files = [run.metrics, run.rollouts, run.ledger, *run.checkpoints.rglob("*"), *run.outputs.iterdir()]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_attempt_that_is_superseded_within_a_step_leaves_no_trace_of_it(make: Make, step: int) -> None:
    # A checkpoint written beside the step could be committed just before the newer attempt, and told just after.
    synchronous = {"every_steps": 2, "asynchronous": False}
    context, settings = make("superseded", engine={"max_new_tokens": 48}, checkpoint=synchronous)
    if step == 1:
        context.run.metrics.touch()
    newer = SuccessorAtStep(context, step)

    with pytest.raises(ConflictError, match="attempt 2 of this run has begun") as ended:
        train(context, settings, newer)

    assert ended.value.exit_code == 3
    assert newer.found
    assert contents(context.run) == newer.found


def test_a_resume_under_other_settings_is_refused(make: Make, straight: Context, tmp_path: Path) -> None:
    shutil.copytree(straight.run.path, tmp_path / "changed")

    with pytest.raises(ConflictError, match="trained under other settings"):
        train(*make("changed", generation=2, samples_per_prompt=3, steps=9))


def test_too_few_examples_for_one_step_is_an_input_error(make: Make) -> None:
    with pytest.raises(InputError, match="has 12 examples and prompts_per_step is 13"):
        train(*make("small", prompts_per_step=13))


def history(context: Context) -> list[dict[str, Any]]:
    """Return every rollout and metric that does not depend on the clock."""
    metrics = [json.loads(line) for line in context.run.metrics.read_text().splitlines()]
    timeless = [
        {k: v for k, v in line.items() if k.split("/")[0] in {"step", "critic", "reward", "actor"}} for line in metrics
    ]
    return timeless + [json.loads(line) for line in context.run.rollouts.read_text().splitlines()]


def final(context: Context) -> Path:
    return context.run.checkpoints / f"step_{STEPS:08d}"


def assert_same_tensors(a: Path, b: Path) -> None:
    names = sorted(str(path.relative_to(a)) for path in a.rglob("*.safetensors"))
    assert {name.partition("/")[0] for name in names} == {"model", "optimizer"}
    for name in names:
        left, right = load_file(a / name), load_file(b / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_every_commit_is_in_the_ledger(straight: Context) -> None:
    commits = [e.fields["step"] for e in ledger.read(straight.run.ledger) if e.event == "checkpoint_committed"]
    assert commits == [2, 4, 5]


def test_waiting_for_the_judge_is_hidden_while_the_next_step_is_sampled() -> None:
    ended = collector.Generated()
    sampling = Trainer.__new__(Trainer)
    sampling._collections = {8: SimpleNamespace(generated=ended)}  # type: ignore[dict-item]
    began = time.monotonic()

    assert sampling._unhidden_s(7, began) == 0.0
    ended.note()
    time.sleep(0.02)
    assert 0.02 <= sampling._unhidden_s(7, began) <= time.monotonic() - began
    assert sampling._unhidden_s(8, began) is None
