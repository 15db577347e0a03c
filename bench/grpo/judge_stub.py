"""A judge that only takes time: ``python -m bench.grpo.judge_stub FOLDER --median-s 0.5``.

Every request is answered after a latency of its own, however many wait: lognormal, drawn from one seed in the order
of arrival, so that each trainer meets the same ones. The address is written to ``FOLDER/address`` once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp
from pathlib import Path

from aiohttp import web

from bench.grpo.peer import CHECKOUT, environment

SIGMA = 0.5
"""Of the latency's logarithm: one of 20 requests takes longer than 2.3 times the median."""
SEED = 1
START_S = 60.0
END_S = 10.0


def latencies(median_s: float, sigma: float = SIGMA) -> Iterator[float]:
    """Yield the latencies of requests in the order of their arrival, seconds."""
    generator = random.Random(SEED)
    while True:
        yield median_s * exp(generator.gauss(0, sigma))


def judge_s(median_s: float, rows: int, steps: int) -> float:
    """Return what judging a step takes if all its requests begin at the same time: the median of the longest."""
    drawn = latencies(median_s)
    return statistics.median(max(next(drawn) for _ in range(rows)) for _ in range(steps))


@contextmanager
def serving(folder: Path, median_s: float) -> Iterator[str]:
    """Serve in a process of its own and yield the address."""
    address = folder / "address"
    address.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.grpo.judge_stub", str(folder), "--median-s", str(median_s)]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment())
    try:
        yield _when_written(address, process)
    finally:
        process.terminate()
        process.wait(END_S)


def _when_written(path: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"The stub of the judge does not listen after {START_S:g} s.")
        time.sleep(0.02)
    return path.read_text()


async def _serve(folder: Path, median_s: float) -> None:
    drawn = latencies(median_s)

    async def judge(_: web.Request) -> web.Response:
        await asyncio.sleep(next(drawn))
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_get("/judge", judge)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    temporary = folder / ".address"
    temporary.write_text(f"http://127.0.0.1:{port}/judge")
    temporary.rename(folder / "address")
    await asyncio.Event().wait()


def main() -> int:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m bench.grpo.judge_stub", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--median-s", type=float, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(given.folder, given.median_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
