"""How long the command line takes to answer, beside TorchX's.

    python -m bench.cli --cache ~/.cache/orchestrator-bench

The cache folder gets a virtual environment with TorchX in it, made at the first call (that needs
the package index; without one, TorchX is left out and the line says so). Commands are run in turn,
round after round, so that a machine that slows down slows all of them; medians of wall time are
compared with those of ``python -c pass`` of the same interpreter. Exit code 1 if a target is missed.

Targets, as ratios to ``python -c pass``, so that they mean the same on a slow machine: the absolute
ones (150 ms and 400 ms) are for a machine on which ``python -c pass`` takes 30 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator import ledger, plan, run_directory

CHECKOUT = Path(__file__).resolve().parent.parent
TORCHX = "torchx==0.7.0"
REFERENCE_PASS_MS = 30.0
TARGETS_MS = {"orchestrator --help": 150.0, "orchestrator submit --dry-run": 400.0}
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall times of one command.

    Attributes:
        name: What was run, in words.
        median_ms: Median.
        fastest_ms: Shortest; what an idle machine would show.
        ratio: Median as a multiple of ``python -c pass``, of the interpreter that ran the command.
    """

    name: str
    median_ms: float
    fastest_ms: float
    ratio: float


def commands(recipe: Path, torchx: Path | None) -> dict[str, list[str]]:
    """Return what to time, by name; names that begin with ``pass`` are what others are compared with."""
    ours = [sys.executable, "-m", "orchestrator"]
    found = {
        "pass": [sys.executable, "-c", "pass"],
        "orchestrator --help": [*ours, "--help"],
        "orchestrator submit --dry-run": [*ours, "submit", str(recipe), "--dry-run", "--run-name", "dry"],
        "orchestrator list": [*ours, "list"],
        "orchestrator status": [*ours, "status", "bench"],
    }
    if torchx is not None:
        python = str(torchx / "bin" / "python")
        app = ["utils.echo", "--msg", "hello"]
        found |= {
            "pass (TorchX)": [python, "-c", "pass"],
            "torchx --help": [str(torchx / "bin" / "torchx"), "--help"],
            "torchx run --dryrun": [str(torchx / "bin" / "torchx"), "run", "-s", "local_cwd", "--dryrun", *app],
        }
    return found


def measure(what: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Return the wall times of every command, milliseconds, one a round; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in what}
    with TemporaryDirectory() as runs:
        _a_finished_run(Path(runs))
        env = os.environ | {"ORCH_RUNS": runs, "NO_COLOR": "1"}
        for turn in range(rounds + 1):
            for name, command in what.items():
                spent_ms = _run(command, env)
                if turn:
                    times[name].append(spent_ms)
    return times


def timings(times: dict[str, list[float]]) -> list[Timing]:
    """Return the summary of every command, compared with the bare interpreter that ran it."""
    bare = {name: statistics.median(spent) for name, spent in times.items() if name.startswith("pass")}
    return [
        Timing(
            name=name,
            median_ms=round(statistics.median(spent), 1),
            fastest_ms=round(min(spent), 1),
            ratio=round(statistics.median(spent) / _bare(name, bare), 2),
        )
        for name, spent in times.items()
    ]


def missed(found: list[Timing]) -> list[str]:
    """Return a sentence for every target that was missed."""
    limits = {name: limit_ms / REFERENCE_PASS_MS for name, limit_ms in TARGETS_MS.items()}
    return [
        f"{timing.name} takes {timing.ratio:.1f} times 'python -c pass'; the target is {limits[timing.name]:.1f}."
        for timing in found
        if timing.name in limits and timing.ratio > limits[timing.name]
    ]


def installed(cache: Path) -> Path | None:
    """Return the environment with TorchX, made if it is not there yet; None if that is not possible."""
    folder = cache / TORCHX.replace("==", "-")
    if (folder / "bin" / "torchx").exists():
        return folder
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", TORCHX]
    if subprocess.run(pip, check=False, timeout=600).returncode != 0:
        print(f"{TORCHX} cannot be installed in {folder}; it is left out.", file=sys.stderr)
        return None
    return folder


def _a_finished_run(runs: Path) -> None:
    """Make what ``list`` and ``status`` read: a run of two roles that has ended."""
    run = run_directory.RunDirectory(runs / "bench")
    run.create()
    roles = (plan.Role(name="judge", job="judge", kind="service"), plan.Role(name="train", job="grpo", kind="batch"))
    the_plan = plan.Plan(
        name="bench",
        recipe="recipes/bench.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=plan.Placement(kind="local", why="For the measurement."),
        time_limit_s=60,
        restarts=plan.Restarts(),
        roles=roles,
    )
    run.plan.write_text(plan.to_json(the_plan), encoding="utf-8")
    journal = ledger.Ledger(run.ledger, 1)
    journal.append("attempt_started", attempt=1, host="here", pid=1)
    for role in roles:
        journal.append("role_started", role=role.name)
        journal.append("role_finished", role=role.name, exit_code=0, cause="done")
    journal.append("run_finished", state="SUCCEEDED", kind="done", cause="done", diagnosis="")


def _run(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    ended = subprocess.run(
        command,
        env=env,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {ended.returncode}:\n{ended.stderr}")
    return (time.perf_counter() - began) * 1000


def _bare(name: str, bare: dict[str, float]) -> float:
    return bare["pass (TorchX)"] if "torchx" in name.lower() else bare["pass"]


def main() -> int:
    """Measure, print a table, and return 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.cli", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder for TorchX's environment; left out: TorchX is not measured")
    parser.add_argument("--recipe", type=Path, default=CHECKOUT / "recipes" / "geo3k-tiny.yaml")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torchx = installed(given.cache) if given.cache else None
    found = timings(measure(commands(given.recipe, torchx), given.rounds))
    if given.json:
        print(json.dumps({"schema": 1, "rounds": given.rounds, "timings": [asdict(timing) for timing in found]}))
    else:
        print(f"{'':32} median ms  fastest ms  x 'pass'")
        for timing in found:
            print(f"{timing.name:32} {timing.median_ms:9.1f} {timing.fastest_ms:11.1f} {timing.ratio:9.2f}")
    for sentence in missed(found):
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
