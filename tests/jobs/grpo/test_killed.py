"""A run that is killed at every step, in every phase, and ends as if nothing had been.

Twelve steps over data of four steps an epoch; each attempt gets one step further than the one before it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.entry import DRAINED, Context
from jobs.grpo import checkpoint, journal
from tests.jobs.grpo.attempts import Attempt, Attempts, context_of
from tests.jobs.grpo.test_loop import assert_same_tensors, history

pytestmark = pytest.mark.slow
STEPS = 12
STEPWISE = ("rollout", "reward", "journal", "update")
SAVING = ("copy", "save", "prune")
VARIANTS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "one step off": {"algorithm": {"staleness": 1, "importance": "token"}},
    "refilled": {"algorithm": {"refills": 1}},
    "KL in the reward": {"algorithm": {"kl_coefficient": 0.1, "kl_in": "reward"}},
}
SAVED = (5, 10, STEPS)
KILLS = [
    *(("synchronous", phase) for phase in (*STEPWISE, *SAVING)),
    *(("one step off", phase) for phase in ("rollout", "update", "save")),
    ("refilled", "reward"),
    ("KL in the reward", "update"),
]
New = Callable[[str], Attempt]


@pytest.fixture(scope="module")
def attempts() -> Iterator[Attempts]:
    process = Attempts()
    yield process
    process.close()


@pytest.fixture(scope="module")
def new(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, data_file: Path
) -> New:
    settings = {
        "model": str(policy_folder),
        "data": {"path": str(data_file)},
        "rewards": {"tests.jobs.grpo.attempts:spaces": 1.0},
        "engine": {"max_new_tokens": 8},
        "policy": {"learning_rate": 1e-3},
        "steps": STEPS,
        "prompts_per_step": 3,
        "samples_per_prompt": 2,
        "checkpoint": {"every_steps": SAVED[0]},
        "ray": False,
    } | VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("killed")
    return lambda name: Attempt(folder=str(folder / name), settings=settings, generation=1)


@pytest.fixture(scope="module")
def undisturbed(attempts: Attempts, new: New) -> Context:
    attempt = new("undisturbed")
    assert attempts.make(attempt) == 0
    context = context_of(Path(attempt.folder), 1)
    steps = [json.loads(line) for line in context.run.metrics.read_text().splitlines()]
    assert sum(step["actor/skipped"] == 0 for step in steps) > STEPS / 2, "there is something to learn"
    assert steps[-1]["training/epoch"] >= 2
    return context


@pytest.mark.parametrize(("new", "phase"), KILLS, indirect=["new"], scope="module")
def test_a_run_killed_wherever_it_can_be_ends_as_if_nothing_had_been(
    attempts: Attempts, new: New, undisturbed: Context, phase: str
) -> None:
    steps = SAVED if phase in SAVING else range(1, STEPS + 1)
    kill_at_each(attempts, new(f"killed-in-{phase}"), phase, steps, undisturbed)


def kill_at_each(attempts: Attempts, first: Attempt, phase: str, steps: Iterable[int], undisturbed: Context) -> None:
    context = context_of(Path(first.folder), 1)
    for generation, step in enumerate(steps, start=1):
        kept = set(journal.steps(context.run.journal))
        dying = replace(first, generation=generation, die_in=phase, die_at=step)
        assert attempts.make(dying) == -signal.SIGKILL
        assert not asked(context) & kept, "what the journal had was judged again"
    assert attempts.make(replace(first, generation=STEPS + 1)) == 0
    assert_undisturbed(context, undisturbed)


@pytest.mark.parametrize("new", ["synchronous", "one step off"], indirect=True, scope="module")
def test_a_run_told_to_stop_in_every_step_ends_as_if_nothing_had_been(
    attempts: Attempts, new: New, undisturbed: Context
) -> None:
    first, codes = new("told"), []
    for generation in range(1, 10 * STEPS):
        codes.append(attempts.make(replace(first, generation=generation, stop_after=3 + generation)))
        if codes[-1] == 0:
            break

    assert codes[-1] == 0
    assert set(codes[:-1]) == {DRAINED}
    assert_undisturbed(context_of(Path(first.folder), 1), undisturbed)


def asked(context: Context) -> set[int]:
    """Return the steps whose responses were rewarded since the last question."""
    path = context.run.path / "asked"
    found = {int(line) for line in path.read_text().splitlines()} if path.exists() else set()
    path.unlink(missing_ok=True)
    return found


def assert_undisturbed(context: Context, undisturbed: Context) -> None:
    last = checkpoint.folder_name(STEPS)
    assert history(context) == history(undisturbed)
    assert_same_tensors(undisturbed.run.checkpoints / last, context.run.checkpoints / last)
    # Other steps where a drain saved them, one more where a kill came between a commit and its pruning.
    assert len(checkpoint.steps(context.run.checkpoints)) >= len(checkpoint.steps(undisturbed.run.checkpoints))
    assert not list(context.run.checkpoints.glob(".step_*.tmp")), "what a kill left is cleared away"
