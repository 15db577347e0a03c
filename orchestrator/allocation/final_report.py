"""Lets ``eval.report`` write the report of a finished run; a run is not lost for want of one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from orchestrator.allocation import launch
from orchestrator.allocation.diagnosis import Watch, end_of_process
from orchestrator.allocation.member import Member
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory

LIMIT_S = 300.0
TICK_S = 0.1


def write(run: RunDirectory, generation: int, progress: Progress, stopped: Callable[[], bool]) -> str:
    """Write the report and return why it could not be written, or nothing.

    Nothing is written, and nothing is wrong, for a run that measured nothing.

    Args:
        run: The run.
        generation: The attempt, in whose folder the log goes.
        progress: Where to say that it is waited for.
        stopped: Whether somebody wants the run to end without it.
    """
    if not (run.metrics.exists() or run.eval.exists()):
        return ""
    if not any((launch.CHECKOUT / "eval" / name).exists() for name in ("report.py", "report/__main__.py")):
        return ""
    log = run.attempt(generation) / "report.log"
    argv = [sys.executable, "-m", "eval.report", "--run-dir", str(run.path)]
    env = dict(os.environ) | launch.marks(run, "report", None, generation)
    report = Member(role="report", log=log.name, drain_s=5.0)
    try:
        report.begin(launch.start(argv, env, log, drain_s=report.drain_s), frozenset())
    except OSError as error:
        return f"cannot be started: {error}"
    code = _wait(report, progress, stopped)
    if code == 0:
        return ""
    watch = Watch(log.parent)
    watch.ended(report.role, log.name, code)
    return f"{end_of_process(code)}: {watch.latest(report.role)}"


def _wait(report: Member, progress: Progress, stopped: Callable[[], bool]) -> int:
    while (code := report.exit_code()) is None:
        progress.waiting("the report", waited_s=report.age_s, until_s=LIMIT_S)
        if report.age_s > LIMIT_S or stopped():
            report.ask_to_stop()
        report.kill_if_overdue()
        time.sleep(TICK_S)
    return code
