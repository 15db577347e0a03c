"""When and how ``verify-resume`` kills: the plan, where a run is, and the killing of real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import control, processes
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from orchestrator.verify_resume import disturbance, kills, strike
from orchestrator.verify_resume.disturbance import Blow
from orchestrator.verify_resume.kills import Kill, Lookout, Point
from tests.orchestrator import runs
from tests.orchestrator.runs import say, tell


def steps_made(run: RunDirectory, count: int) -> None:
    run.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, count + 1)))


# When processes are killed.


def test_the_same_seed_gives_the_same_kills_and_another_one_others() -> None:
    def planned(seed: int) -> tuple[Kill, ...]:
        return kills.plan(seed=seed, count=4, total=40, save_every=10, workers=True)

    assert planned(1) == planned(1)
    assert len({planned(seed) for seed in range(10)}) == 10


@pytest.mark.parametrize(("count", "total"), [(1, 2), (2, 3), (3, 4), (3, 40), (8, 30)])
def test_kills_are_spread_over_the_run_and_none_is_in_its_last_step(count: int, total: int) -> None:
    for seed in range(20):
        planned = kills.plan(seed=seed, count=count, total=total, save_every=10, workers=True)

        steps = [kill.step for kill in planned]
        assert len(planned) == count
        assert steps == sorted(set(steps))
        assert all(1 <= step < total for step in steps)
        assert all(kill.step % 10 == 0 for kill in planned if kill.phase == "save")
        assert [kill.what for kill in planned].count("preemption") == (1 if count >= 3 else 0)


def test_three_kills_are_of_the_driver_of_a_worker_and_a_preemption() -> None:
    def whats(*, workers: bool) -> list[str]:
        return sorted(kill.what for kill in kills.plan(seed=1, count=3, total=9, save_every=2, workers=workers))

    assert whats(workers=True) == ["driver", "preemption", "worker"]
    assert whats(workers=False) == ["driver", "driver", "preemption"]


def test_enough_kills_meet_every_phase() -> None:
    planned = kills.plan(seed=1, count=8, total=200, save_every=5, workers=False)

    assert {kill.phase for kill in planned} == set(kills.PHASES)


def test_a_kill_is_due_in_its_phase_and_from_its_last_chance_on_in_any() -> None:
    kill = Kill(what="driver", step=4, phase="update")

    assert not kills.due(kill, 7, Point(step=3, phase="update"))
    assert not kills.due(kill, 7, Point(step=4, phase="rollout"))
    assert kills.due(kill, 7, Point(step=4, phase="update"))
    assert kills.due(kill, 7, Point(step=5, phase="update"))
    assert kills.due(kill, 7, Point(step=7, phase="rollout"))


def test_where_training_is_follows_from_what_it_has_written(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    lookout = Lookout(run, "train")
    points = [lookout.point()]

    tell(run, 1, "role_started", role="train", pid=1, start=1.0, at=time.time() - 5)
    points.append(lookout.point())
    say(run, "train", phase="starting workers")
    points.append(lookout.point())
    say(run, "train", phase="training", unit="steps", done=0, total=4, message="step 1: 2 of 8 responses scored")
    points.append(lookout.point())
    run.journal.mkdir()
    (run.journal / "step_00000001.jsonl").touch()
    points.append(lookout.point())
    steps_made(run, 1)
    points.append(lookout.point())
    (run.checkpoints / ".step_00000001.0123abcd.tmp").mkdir(parents=True)
    points.append(lookout.point())
    (run.checkpoints / ".step_00000001.0123abcd.tmp").rename(run.checkpoints / "step_00000001")
    points.append(lookout.point())
    tell(run, 1, "role_started", role="train", pid=2, start=2.0, at=time.time() + 5)
    points.append(lookout.point())

    assert points == [
        None,
        None,
        None,
        Point(step=1, phase="reward"),
        Point(step=1, phase="update"),
        Point(step=2, phase="rollout"),
        Point(step=1, phase="save"),
        Point(step=2, phase="rollout"),
        None,
    ]


def test_a_checkpoint_that_a_dead_process_was_writing_is_not_being_saved(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    left = run.checkpoints / ".step_00000002.0123abcd.tmp"
    left.mkdir(parents=True)
    os.utime(left, (time.time() - 60, time.time() - 60))
    tell(run, 1, "role_started", role="train", pid=2, start=2.0, at=time.time() - 5)
    say(run, "train", phase="training", unit="steps", done=0, total=4)

    assert Lookout(run, "train").point() == Point(step=1, phase="rollout")


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    assert kills.last_step(path) == 0
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 30_000)))
    assert kills.last_step(path) == 29_999
    with path.open("a") as file:
        file.write('{"step": 30000, "actor')
    assert kills.last_step(path) == 29_999


# Killing.


@contextmanager
def sleeper(*, titled: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is somebody's driver; with ``titled``, one that has a child as Ray has workers."""
    child = f"subprocess.Popen(['ray::PolicyActor', '60'], executable='/bin/sleep', stdout=open({str(titled)!r}, 'w'))"
    code = f"import subprocess, time\n{child if titled else ''}\nprint('up', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    children = processes.descendants(process.pid)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        processes.kill(children)


def started(run: RunDirectory, process: subprocess.Popen[bytes]) -> None:
    known = processes.find(process.pid)
    assert known is not None
    tell(run, 1, "role_started", role="train", pid=process.pid, start=known.start)


def training(run: RunDirectory, step: int) -> None:
    """Be in the update of a step, for one who looks at any moment."""
    steps_made(run, step - 1)
    Progress(run.progress, "train").update("training", step - 1, 9, unit="steps")
    run.journal.mkdir(exist_ok=True)
    (run.journal / f"step_{step:08d}.jsonl").touch()


def test_the_driver_that_the_ledger_names_is_killed(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    with sleeper() as driver:
        started(run, driver)

        struck = strike.strike(run, Lookout(run, "train").starts()[-1], Kill(what="driver", step=1, phase="update"))

        assert struck is not None
        assert (struck.pid, struck.name, struck.signal) == (driver.pid, "the driver", "SIGKILL")
        assert driver.wait(10) == -signal.SIGKILL


def test_a_worker_is_found_below_the_driver_by_the_log_that_ray_gives_it(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    kill = Kill(what="worker", step=1, phase="update", pick=7)
    with sleeper(titled=tmp_path / "agent.out") as driver:
        started(run, driver)
        assert strike.strike(run, Lookout(run, "train").starts()[-1], kill) is None
    with sleeper(titled=tmp_path / "worker-1-01000000-5.out") as driver:
        started(run, driver)
        worker = processes.descendants(driver.pid)[0]

        struck = strike.strike(run, Lookout(run, "train").starts()[-1], kill)

        assert struck is not None
        assert (struck.pid, struck.name) == (worker.pid, "ray::PolicyActor")
        assert not processes.alive(worker.pid, worker.start)
        assert driver.poll() is None


def test_a_process_that_has_taken_over_the_pid_is_not_killed(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    with sleeper() as stranger:
        tell(run, 1, "role_started", role="train", pid=stranger.pid, start=time.time() - 3600)

        struck = strike.strike(run, Lookout(run, "train").starts()[-1], Kill(what="driver", step=1, phase="update"))

        assert struck is None
        assert stranger.poll() is None


def test_a_preemption_is_a_sigterm_to_the_supervisor(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    known = processes.find(process.pid)
    assert known is not None
    control.own(run, 1)
    owner = json.loads((run.control / "supervisor.json").read_text())
    (run.control / "supervisor.json").write_text(json.dumps(owner | {"pid": known.pid, "start": known.start}))
    tell(run, 1, "role_started", role="train", pid=1, start=1.0)

    struck = strike.strike(run, Lookout(run, "train").starts()[-1], Kill(what="preemption", step=1, phase="update"))

    assert struck is not None
    assert (struck.pid, struck.signal) == (process.pid, "SIGTERM")
    assert process.wait(10) == 75
    process.stdout.close()


def test_kills_happen_in_order_each_to_a_new_start(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    planned = [Kill(what="driver", step=2, phase="update"), Kill(what="driver", step=4, phase="update")]
    stop = threading.Event()
    found: list[Blow] = []
    killer = threading.Thread(target=lambda: found.extend(disturbance.disturb(run, "train", planned, 9, stop)))
    with sleeper() as first, sleeper() as second:
        training(run, 1)
        started(run, first)
        killer.start()
        training(run, 2)
        first.wait(20)
        training(run, 5)
        time.sleep(0.2)
        assert second.poll() is None
        started(run, second)
        training(run, 5)
        second.wait(20)
        killer.join(20)

    assert [(blow.point, blow.struck.pid) for blow in found if blow.struck] == [
        (Point(step=2, phase="update"), first.pid),
        (Point(step=5, phase="update"), second.pid),
    ]


def test_a_kill_that_never_was_due_is_told(tmp_path: Path) -> None:
    run = runs.make(tmp_path)
    stop = threading.Event()
    stop.set()

    found = disturbance.disturb(run, "train", [Kill(what="driver", step=2, phase="update")], 9, stop)

    assert [blow.struck for blow in found] == [None]
