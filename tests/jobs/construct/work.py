"""Problems, settings and jobs for the tests of the construction."""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from eval.answer_checker import AnswerChecker
from jobs import entry
from jobs.construct import job
from jobs.construct.settings import Settings
from tests.jobs.construct.fake_teacher import KEY

CHECKOUT = Path(__file__).resolve().parents[3]


@functools.cache
def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, 90, 160)).save(file, format="PNG")
    return file.getvalue()


def problems(folder: Path, count: int) -> Path:
    """Write ``count`` problems, numbered from 1."""
    rows = [
        {
            "id": f"p{number}",
            "problem": f"<image>Problem {number}: find x.",
            "answer": str(number + 100),
            "images": [{"bytes": picture(number), "path": None}],
        }
        for number in range(1, count + 1)
    ]
    path = folder / "problems.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def key_file(folder: Path) -> Path:
    path = folder / "teacher.key"
    path.touch(mode=0o600)
    path.write_text(f"{KEY}\n")
    return path


def values(folder: Path, url: str, *, count: int, **changes: Any) -> dict[str, Any]:
    """Return settings as they stand in a recipe, for ``count`` problems and one server for everything."""
    data = folder / "problems.parquet"
    if not data.exists():
        problems(folder, count)
    endpoint = {"url": url, "api_key_file": str(key_file(folder)), "max_in_flight": 4}
    return {
        "data": {"source": "geo3k", "path": str(data)},
        "teacher": {**endpoint, "model": "teacher"},
        "extractor": {**endpoint, "model": "extractor"},
        "distil": {"candidates": 3, "max_tokens": 100},
        "facts": {"least": 2},
        "answer_timeout_s": 60,
        "answer_processes": 1,
        **changes,
    }


def context(folder: Path, given: dict[str, Any], out: str = "out") -> tuple[entry.Context, Settings]:
    file = folder / f"{out}.yaml"
    file.write_text(yaml.safe_dump(given))
    return entry.start("construct", Settings, ["--settings", str(file), "--out", str(folder / out)])


def build(folder: Path, given: dict[str, Any], out: str = "out", drain: entry.Drain | None = None) -> int:
    """Run the job and return its exit code."""
    where, settings = context(folder, given, out)
    return job.build_with(checker(), where, settings, drain or entry.Drain())


@functools.cache
def checker() -> AnswerChecker:
    """Return one for all tests, as its process takes a second to start; it ends with this one."""
    shared = AnswerChecker(processes=1, timeout_s=60)
    atexit.register(shared.close)
    return shared


def command(folder: Path, given: dict[str, Any], *arguments: str, out: str = "out") -> list[str]:
    file = folder / f"{out}.yaml"
    file.write_text(yaml.safe_dump(given))
    whole = [sys.executable, "-m", "jobs.construct", *arguments]
    return [*whole, "--settings", str(file), "--out", str(folder / out)]


def start(folder: Path, given: dict[str, Any], *arguments: str, out: str = "out") -> subprocess.Popen[str]:
    """Start the job as a process."""
    return subprocess.Popen(
        command(folder, given, *arguments, out=out),
        cwd=CHECKOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def events(folder: Path, event: str, out: str = "out") -> list[dict[str, Any]]:
    return [line for line in lines(folder / out / "responses.jsonl") if line["event"] == event]


def failures(folder: Path, out: str = "out") -> dict[str, str]:
    """Return stage and reason of every problem that failed."""
    return {
        line["id"]: f"{line['stage']}: {line['reason']}".removeprefix(": ")
        for line in lines(folder / out / "failures.jsonl")
    }
