"""Run directories that hold evaluations and nothing else, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.run_directory import RunDirectory

FINISHED = 1_790_000_000.25
SUMMARY: Mapping[str, Any] = {
    "model": "Org/Base-7B",
    "model_sha256": "a" * 64,
    "data": {"source": "geo3k", "path": "data/test.parquet"},
    "settings": {"engine": "vllm", "max_new_tokens": 4096, "format_prompt": "Think."},
    "decoding": {"temperature": 0, "dtype": "bfloat16", "n": 1},
    "versions": {"orchestrator": "0.5.0", "vllm": "0.33.0"},
    "finished_at": FINISHED,
}


def answer(name: str, correct: bool | None, **more: Any) -> dict[str, Any]:
    """Return one line of an evaluation's samples."""
    row = {
        "id": name,
        "sample": 0,
        "seed": 0,
        "kind": "math",
        "images": [f"images/{name}.png"],
        "prompt": f"<image>{name}? Think.",
        "response": f"<answer>{'right' if correct else 'wrong'}</answer>",
        "tokens": 7,
        "finish": "stop",
        "answer": f"truth of {name}",
        "target": None,
        "meta": {},
        "parts": {"accuracy": None if correct is None else float(correct), "format": 1.0},
        "correct": correct,
        "extracted": "right" if correct else "wrong",
        "prediction": {},
    }
    return row | more


def answers(right: str, wrong: str = "", **more: Any) -> list[dict[str, Any]]:
    """Return answers to problems of one letter each, first those that were solved."""
    return [answer(name, True, **more) for name in right] + [answer(name, False, **more) for name in wrong]


def write(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    label: str = "after",
    task: str = "geometry3k",
    summary: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Add one evaluation to a run's folder, and a plan if one is given, and return the run."""
    run = RunDirectory(folder.absolute())
    place = run.eval / label / task
    place.mkdir(parents=True, exist_ok=True)
    (place / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if summary is not None:
        (place / "summary.json").write_text(json.dumps({**SUMMARY, **summary}), encoding="utf-8")
    if plan is not None:
        run.plan.write_text(json.dumps(plan), encoding="utf-8")
    return run
