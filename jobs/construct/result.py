"""What the construction leaves: the annotated data, what failed and why, and the sums.

    data.parquet      Perception-R1's columns, which ``jobs.data.geo3k`` reads, and where every row comes from
    failures.jsonl    one line a problem without annotation: how far it came, and why no further
    summary.json      counts, tokens, reasons

The bytes of the first two are a function of data, settings and log: nothing in them depends on when, in which
order or in how many attempts the answers came.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.construct import prompts
from jobs.construct.construction import Outcome
from jobs.construct.log import Log
from jobs.construct.pipeline import Kept, Lost, Pipeline, Rejection
from jobs.construct.request import STAGES
from jobs.data import Example
from orchestrator import __version__
from orchestrator.files import sync_folder, write_json, write_text

SCHEMA = "1"
ROWS_A_GROUP = 256
NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Files:
    """Where the results lie: all in one folder."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data.parquet"

    @property
    def failures(self) -> Path:
        return self.folder / "failures.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"


def write_data(path: Path, kept: Sequence[Kept], pipeline: Pipeline) -> None:
    """Write the annotated problems as parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    schema = _schema()
    try:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for first in range(0, len(kept), ROWS_A_GROUP):
                    rows = [row(one, pipeline) for one in kept[first : first + ROWS_A_GROUP]]
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def row(kept: Kept, pipeline: Pipeline) -> dict[str, Any]:
    """Return one row: the problem as it was read, its annotation, and where that comes from."""
    example = kept.example
    annotation = prompts.numbered(kept.facts)
    return {
        "id": example.id,
        "problem": example.problem,
        "answer": example.answer,
        "images": [{"bytes": image, "path": None} for image in example.images],
        "visual_key_info": annotation,
        "trajectory": kept.trajectory,
        "candidate": kept.candidate,
        "dropped_facts": [asdict(one) for one in kept.dropped],
        "models": {stage: pipeline.models.get(stage) for stage in STAGES},
        "prompts_sha256": {stage: pipeline.prompt_hashes().get(stage) for stage in STAGES},
        "requests": {stage: list(kept.requests.get(stage, ())) for stage in STAGES},
        "versions": {"orchestrator": __version__, "schema": SCHEMA},
        "sha256": _digest(example, annotation, kept.trajectory),
    }


def write_failures(path: Path, examples: Sequence[Example], outcome: Outcome) -> None:
    """Write one line for every problem without annotation, in the order of the data."""
    lines = [
        json.dumps(failure)
        for position, example in enumerate(examples)
        if (failure := _failure(example, outcome, position)) is not None
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def summary(examples: Sequence[Example], outcome: Outcome, log: Log, pipeline: Pipeline) -> dict[str, Any]:
    """Return the sums of an attempt, as JSON."""
    states = [outcome.settled[position] for position in sorted(outcome.settled)]
    kept = [state for state in states if isinstance(state, Kept)]
    lost = [state for state in states if isinstance(state, Lost)]
    return {
        "problems": len(examples),
        "kept": len(kept),
        "lost": len(lost),
        "unanswered": len(outcome.unanswered),
        "not_reached": len(examples) - len(states) - len(outcome.unanswered),
        "facts": sum(len(state.facts) for state in kept),
        "facts_dropped": _counted(one.reason for state in kept for one in state.dropped),
        "lost_because": _counted(_said(state.furthest) for state in lost),
        "candidates_rejected": _counted(_said(one) for state in states for one in state.rejections),
        "requests_sent": log.sent,
        "tokens": {stage: log.spent(stage) for stage in STAGES},
        "tokens_without_answer": {stage: log.lost(stage) for stage in STAGES},
        "models": dict(pipeline.models),
        "prompts_sha256": pipeline.prompt_hashes(),
        "versions": {"orchestrator": __version__, "schema": SCHEMA},
    }


def table(summed: dict[str, Any]) -> str:
    """Return the sums as lines for the log, the largest first within each part."""
    lines = [
        f"{summed['kept']} of {summed['problems']} problems annotated with {summed['facts']} facts",
        *_part("lost", summed["lost_because"]),
        *_part("waiting", {name.replace("_", " "): summed[name] for name in ("unanswered", "not_reached")}),
        *_part("candidates rejected", summed["candidates_rejected"]),
        *_part("facts dropped", summed["facts_dropped"]),
        *_part("tokens", summed["tokens"]),
        *_part("tokens that may have been paid for without an answer", summed["tokens_without_answer"]),
    ]
    return "\n".join(lines)


def write_all(
    files: Files, examples: Sequence[Example], outcome: Outcome, log: Log, pipeline: Pipeline
) -> dict[str, Any]:
    """Write failures and sums, print the table, and return the sums."""
    summed = summary(examples, outcome, log, pipeline)
    write_failures(files.failures, examples, outcome)
    write_json(files.summary, summed)
    print(table(summed), file=sys.stderr, flush=True)
    return summed


def _failure(example: Example, outcome: Outcome, position: int) -> dict[str, Any] | None:
    state = outcome.settled.get(position)
    if isinstance(state, Kept):
        return None
    if isinstance(state, Lost):
        last = state.furthest
        candidates = [asdict(one) for one in state.rejections]
        return {"id": example.id, "row": position, "stage": last.step, "reason": last.reason, "candidates": candidates}
    stage, why = outcome.unanswered.get(position, ("", NOT_REACHED))
    reason = "unanswered" if stage else NOT_REACHED
    return {"id": example.id, "row": position, "stage": stage, "reason": reason, "detail": why if stage else ""}


def _digest(example: Example, annotation: str, trajectory: str) -> str:
    images = [hashlib.sha256(image).hexdigest() for image in example.images]
    whole = [example.id, example.problem, example.answer, images, annotation, trajectory]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    by_stage = pa.struct([(stage, text) for stage in STAGES])
    return pa.schema(
        [
            ("id", text),
            ("problem", text),
            ("answer", text),
            ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)]))),
            ("visual_key_info", text),
            ("trajectory", text),
            ("candidate", pa.int32()),
            ("dropped_facts", pa.list_(pa.struct([("fact", text), ("reason", text)]))),
            ("models", by_stage),
            ("prompts_sha256", by_stage),
            ("requests", pa.struct([(stage, pa.list_(text)) for stage in STAGES])),
            ("versions", pa.struct([("orchestrator", text), ("schema", text)])),
            ("sha256", text),
        ]
    )


def _said(rejection: Rejection) -> str:
    return f"{rejection.step}: {rejection.reason}"


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _part(title: str, counts: dict[str, int]) -> list[str]:
    shown = {name: count for name, count in counts.items() if count}
    return [f"  {title}:", *(f"    {count:>9}  {name}" for name, count in shown.items())] if shown else []
