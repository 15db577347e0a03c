"""What the faults of a cluster cost, beside others on the same Slurm.

    python -m bench.recovery --cache ~/.cache/orchestrator-bench --json recovery.json
    python -m bench.recovery --quick

Brings up a sandbox of its own with Slurm's default intervals (backfill every 30 s, 121 s until a requeued job may
start) and runs stand-ins for trainer and judge that load nothing, so that what is left is the launcher's share.
Every round measures each launcher in turn; peers wait for their requeue while ours are measured. The cache folder gets
a virtual environment with TorchX, as in ``bench.cli``. Exit code 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import campaign, cli, queries, rounds
from bench.figures import Figure, table
from cluster.sandbox import Options, Sandbox
from tests.slurm_runs import Cluster

NODES = 14
SIGNAL_BASE = 128
PARTS = ("rounds", "queries", "goodput")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long it is measured: rounds, and seconds of the rest."""

    repeats: int
    follow_s: float
    goodput_s: float
    every_s: float


def measure(
    sandbox: Sandbox, folder: Path, torchx: Path | None, scale: Scale, parts: Sequence[str], *, alone: bool
) -> list[Figure]:
    """Return all figures."""
    cluster = Cluster(sandbox, folder)
    found: list[Figure] = []
    if "rounds" in parts:
        found += rounds.measure(cluster, folder, torchx, scale.repeats, say, alone=alone)
    if "queries" in parts:
        found += queries.measure(cluster, folder, torchx, scale.follow_s, say)
    if "goodput" in parts:
        found += campaign.measure(cluster, folder, scale.goodput_s, scale.every_s, say)
    return found


def say(line: str) -> None:
    """Say what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the table, and return 1 if a goal was missed."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(SIGNAL_BASE + number))  # takes the sandbox down
    quick = Scale(repeats=1, follow_s=15, goodput_s=240, every_s=50)
    scale = (
        quick
        if given.quick
        else Scale(repeats=given.repeats, follow_s=60, goodput_s=60 * given.minutes, every_s=given.every)
    )
    torchx = cli.installed(given.cache) if given.cache else None
    with tempfile.TemporaryDirectory(prefix="recovery-") as place:
        folder = Path(place)
        options = Options(nodes=NODES, backfill="default", cred_expire_s=120)
        with Sandbox(folder / "slurm", options, say) as sandbox:
            found = measure(sandbox, folder, torchx, scale, given.parts, alone=given.alone)
    print("\n".join(table(found)))
    if given.json:
        content = {"schema": 1, "figures": [figure.to_json() for figure in found]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in found) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder for TorchX's environment; left out: TorchX is not measured")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--minutes", type=float, default=15, help="of the run under faults (default: 15)")
    parser.add_argument("--every", type=float, default=180, help="seconds between its faults (default: 180)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--alone", action="store_true", help="rounds of ours only: 1 min each, and not 4")
    parser.add_argument("--quick", action="store_true", help="one round, 15 s of logs, 4 min under faults")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
