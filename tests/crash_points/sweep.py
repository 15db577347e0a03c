"""Every fault at every call of every scenario: started by ``runner`` with the library preloaded.

python -m tests.crash_points.sweep OUT NAME...        rows as JSON into the file OUT
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from tests.crash_points import shim
from tests.crash_points.runner import Harm, Row
from tests.crash_points.scenarios import BAD, OURS, Scenario
from tests.crash_points.shim import FAULTS, Mode

DONE, RAISED, WRONG = 0, 3, 4
REFUSALS = (OSError, OrchestratorError)
# What a loader, good or bad, raises on files that are not whole.
UNREADABLE = (*REFUSALS, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
RETURNED = "having returned"
# In the names of temporary files and folders, and of those that are set aside.
RANDOM = re.compile(r"\.[0-9a-f]{8}(?=\.tmp)|(?<=\.bad)-[^/]*")
Picture = tuple[tuple[str, bytes], ...]


class Sweep:
    """All faults of one scenario.

    Args:
        scenario: What is interrupted.
        base: Where its folders are made; emptied after each.
    """

    def __init__(self, scenario: Scenario, base: Path) -> None:
        self._scenario = scenario
        self._base = base
        self._old = self._state_after(scenario.prepare)
        self._new = self._state_after(scenario.prepare, scenario.act)
        # Made once and copied for every fault: what it takes to make it is not what is tried.
        self._before = self._folder()
        scenario.prepare(self._before)
        self._judged: dict[tuple[bool, Picture], str | None] = {}
        self._allowed = [self._old, self._new, *(self._state_after(prepare) for prepare in scenario.also)]

    def row(self) -> Row:
        calls = self._trace()
        harms = []
        for mode in FAULTS:
            for at, call in enumerate([*calls, RETURNED], start=1):
                what = self._try(mode, at, returned=call is RETURNED) if _applies(mode, call) else None
                if what is not None:
                    harms.append(Harm(mode=mode.name, at=at, call=call, what=what))
        return Row(scenario=self._scenario.name, calls=calls, harms=harms)

    def _state_after(self, *actions: Callable[[Path], object]) -> Any:
        folder = self._folder()
        for action in actions:
            action(folder)
        found = self._scenario.load(folder)
        shutil.rmtree(folder)
        return found

    def _trace(self) -> list[str]:
        folder = self._prepared()
        trace = self._base / "trace"
        with trace.open("wb") as file:
            ended = _ended_in_a_child(lambda: self._act(folder, 0, Mode.COUNT, file.fileno()))
        assert ended == DONE, f"{self._scenario.name} fails without a fault"
        shutil.rmtree(folder)
        return trace.read_text().splitlines()

    def _try(self, mode: Mode, at: int, *, returned: bool) -> str | None:
        """Return what harm the fault did; None if none."""
        folder = self._prepared()
        # A process that is not killed goes on, so it has to be the one that does the next such thing.
        run = _ended_in_a_child if mode.kills else _ended
        ended = run(lambda: self._act(folder, at, mode))
        shim.disarm()
        harm = self._harm(folder, has_returned=returned or ended == DONE)
        shutil.rmtree(folder)
        if mode.kills and ended != -signal.SIGKILL:
            return f"it was to be killed and ends with {ended}"
        return harm

    def _act(self, folder: Path, at: int, mode: Mode, trace: int = -1) -> None:
        shim.arm(folder, at, mode, trace)
        self._scenario.act(folder)
        if mode is Mode.POWER_LOSS:
            shim.lose_power()

    def _harm(self, folder: Path, *, has_returned: bool) -> str | None:
        """Return what is wrong with what is there. What was there before, after another fault, is not judged again."""
        key = (has_returned, _picture(folder))
        if key not in self._judged:
            self._judged[key] = self._judge(folder, [self._new] if has_returned else self._allowed)
        return self._judged[key]

    def _judge(self, folder: Path, allowed: list[Any]) -> str | None:
        try:
            found = self._scenario.load(folder)
        except UNREADABLE as error:
            return f"unloadable: {error!r}"
        if found not in allowed:
            return "lost, though it had returned" if found in self._allowed else f"neither old nor new: {found!r:.200}"
        try:
            expected = self._scenario.again(folder, found)
            after = self._scenario.load(folder)
        except UNREADABLE as error:
            return f"stuck: {error!r}"
        return None if after == expected else f"stuck: the next one gives {after!r:.200}"

    def _prepared(self) -> Path:
        return shutil.copytree(self._before, self._folder(), dirs_exist_ok=True)

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._base))


def _ended(action: Callable[[], None]) -> int:
    """Do it; return whether it was done or refused. Any other exception than those of a full or bad disk is a bug."""
    try:
        action()
    except REFUSALS:
        return RAISED
    return DONE


def _ended_in_a_child(action: Callable[[], None]) -> int:
    """Do it in a copy of this process; return how that ended: an exit code, or a signal's number, negative."""
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = WRONG
    try:
        code = _ended(action)
    finally:
        if code == WRONG:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def _applies(mode: Mode, call: str) -> bool:
    if call is RETURNED:
        # What it has done by then has to be there, whatever happens next.
        return mode is Mode.POWER_LOSS
    return mode is not Mode.TEAR or "write" in call.split(" ", 1)[0]


def _picture(folder: Path) -> Picture:
    """Return every file and folder with its content; of names that are drawn at random, without what is random."""
    return tuple(
        sorted((_named(path, folder), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))
    )


def _named(path: Path, folder: Path) -> str:
    return RANDOM.sub("", str(path.relative_to(folder)))


def main() -> None:
    out, *names = sys.argv[1:]
    rows = []
    # A filesystem in memory if there is one: syncing a disk thousands of times takes minutes.
    fast = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as base,
        redirect_stdout(sys.stderr),
    ):
        for scenario in (*OURS, *BAD):
            if scenario.name in names:
                rows.append(asdict(Sweep(scenario, Path(base).resolve()).row()))
    Path(out).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
