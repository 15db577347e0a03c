"""Every Eval Ever: one aggregate JSON a model and its ``<uuid>_samples.jsonl``, laid out as its datastore wants them.

    OUT/data/<collection>/<developer>/<model>/<uuid>.json
    OUT/data/<collection>/<developer>/<model>/<uuid>_samples.jsonl

Every part of a score is a result of its own. Rows of answers belong to each task's main result (accuracy; where
nothing is right or wrong, the main part, and then ``is_correct`` says whether it is 1). An answer that could not be
checked has no row and is counted in the result's details. Names are made of what was evaluated, so that exporting
twice replaces the record and does not add one.

Source:
    Every Eval Ever, ``eval.schema.json`` and ``instance_level_eval.schema.json``, version 0.3.0.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from eval.comparison import ACCURACY, extracted
from eval.exports.evaluated import Evaluated, Measure, Task, document, lines
from eval.record import Row
from orchestrator.errors import InputError

SCHEMA_VERSION = "0.3.0"
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """What the files must say and no run knows.

    Attributes:
        model: ``organisation/name``, as on Hugging Face.
        organization: Who evaluated.
        relationship: Of the evaluator to the model's maker.
        collection: What the record is filed under; the run's name if left out.
        datasets: Of tasks, the data set on Hugging Face, ``organisation/name`` or ``organisation/name:split``.
    """

    model: str
    organization: str = "unknown"
    relationship: str = "other"
    collection: str | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not MODEL.fullmatch(self.model):
            raise InputError(
                f"--model: {self.model!r} is not ORGANISATION/NAME, as on Hugging Face. Name the model so."
            )


def write(found: Evaluated, out: Path, publisher: Publisher, *, now: float | None = None) -> list[Path]:
    """Write the aggregate and the samples of one model and return them in this order.

    Args:
        found: What the model answered.
        out: The folder that gets ``data/``.
        publisher: What no run knows.
        now: Unix time that the record says it was made at; the clock's if left out.
    """
    identity = f"{NOT_IN_A_NAME.sub('-', found.run)}.{found.label}/{publisher.model}/{int(found.finished_at)}"
    name = str(UUID(bytes=hashlib.sha256(identity.encode()).digest()[:16], version=4))
    collection = NOT_IN_A_NAME.sub("-", publisher.collection or found.run)
    folder = Path("data") / collection / publisher.model
    rows = [row for task in found.tasks for row in _instances(task, identity, publisher)]
    samples = lines(out / folder / f"{name}_samples.jsonl", rows)
    detailed = {
        "format": "jsonl",
        "file_path": str(folder / samples.name),
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(samples.read_bytes()).hexdigest(),
        "total_rows": len(rows),
    }
    created = time.time() if now is None else now
    aggregate = _aggregate(found, identity, publisher, created) | (
        {"detailed_evaluation_results": detailed} if rows else {}
    )
    return [document(out / folder / f"{name}.json", aggregate), samples]


def _aggregate(found: Evaluated, identity: str, publisher: Publisher, created: float) -> dict[str, Any]:
    versions = found.tasks[0].summary.get("versions") or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "evaluation_timestamp": str(int(found.finished_at)),
        "retrieved_timestamp": str(int(created)),
        "source_metadata": {
            "source_name": "orchestrator",
            "source_type": "evaluation_run",
            "source_organization_name": publisher.organization,
            "evaluator_relationship": publisher.relationship,
        },
        "eval_library": {
            "name": "orchestrator",
            "version": str(versions.get("orchestrator", "unknown")),
            "additional_details": {f"version_{name}": str(number) for name, number in sorted(versions.items())},
        },
        "model_info": _model(found, publisher),
        "evaluation_results": [
            _result(task, measure, identity, publisher) for task in found.tasks for measure in task.measures
        ],
    }


def _model(found: Evaluated, publisher: Publisher) -> dict[str, Any]:
    task = found.tasks[0]
    details = {
        "sha256": task.summary.get("model_sha256"),
        "revision": task.summary.get("model_revision"),
        "dtype": task.setting("dtype"),
        "label": found.label,
    }
    return {
        "name": publisher.model.split("/")[1],
        "id": publisher.model,
        "developer": publisher.model.split("/")[0],
        **_engine(task),
        "additional_details": {"deployment_type": "self_deployed", "model_availability": "unknown"} | _texts(details),
    }


def _engine(task: Task) -> dict[str, Any]:
    """Return what answered; nothing for a server, which does not say."""
    if task.engine is None:
        return {}
    name = {"hf": "transformers"}.get(task.engine, task.engine)
    versions = task.summary.get("versions") or {}
    version = versions.get(name, versions.get(f"{name}-cpu"))
    return {"inference_engine": {"name": name} | ({"version": str(version)} if version else {})}


def _result(task: Task, measure: Measure, identity: str, publisher: Publisher) -> dict[str, Any]:
    unchecked = sum(task.value(row, measure) is None for row in task.rows)
    return {
        "evaluation_result_id": _result_id(task, measure, identity),
        "evaluation_name": task.name,
        "source_data": _source(task, publisher.datasets.get(task.name)),
        "evaluation_timestamp": str(int(float(task.summary["finished_at"]))),
        "metric_config": _metric(measure),
        "score_details": {
            "score": measure.interval.estimate,
            "details": {"missing_answers": str(unchecked), "answers": str(len(task.rows))},
            "uncertainty": {
                "standard_error": {"value": measure.standard_error, "method": "analytic, over problems"},
                "confidence_interval": {
                    "lower": measure.interval.low,
                    "upper": measure.interval.high,
                    "confidence_level": 0.95,
                    "method": measure.method,
                },
                "num_samples": measure.n,
            },
        },
        "generation_config": _generation(task),
    }


def _result_id(task: Task, measure: Measure, identity: str) -> str:
    return f"{identity}/{task.name}/{measure.name}"


def _metric(measure: Measure) -> dict[str, Any]:
    lower = {"lower_is_better": not measure.higher_is_better}
    if measure.name == ACCURACY:
        return {
            "metric_id": "accuracy",
            "metric_name": "Accuracy",
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            **lower,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
        }
    # Bounds are left out: rewards and errors have any, and a wrong bound is worse than none.
    return {
        "metric_id": f"orchestrator.{measure.name}",
        "metric_name": measure.name,
        **lower,
        "additional_details": {"bounds_status": "unknown"},
    }


def _source(task: Task, dataset: str | None) -> dict[str, Any]:
    if dataset is None:
        source = (task.summary.get("data") or {}).get("source")
        return {"dataset_name": task.name, "source_type": "other"} | (
            {"additional_details": {"source": str(source)}} if source else {}
        )
    repository, _, split = dataset.partition(":")
    return {
        "dataset_name": task.name,
        "source_type": "hf_dataset",
        "hf_repo": repository,
        **({"hf_split": split} if split else {}),
        "samples_number": len(task.answers),
    }


def _generation(task: Task) -> dict[str, Any]:
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_new_tokens": "max_tokens"}
    given = {theirs: task.setting(ours) for ours, theirs in names.items()}
    details = {"samples_per_problem": str(max(map(len, task.answers.values())))}
    return {
        "generation_args": {name: value for name, value in given.items() if value is not None},
        "additional_details": details | _texts({"format_prompt": task.setting("format_prompt")}),
    }


def _instances(task: Task, identity: str, publisher: Publisher) -> list[dict[str, Any]]:
    if not task.measures:
        return []
    measure = task.measures[0]
    valued = [(row, task.value(row, measure)) for row in task.rows]
    return [
        _instance(task, row, value, _result_id(task, measure, identity), identity, publisher)
        for row, value in valued
        if value is not None
    ]


def _instance(task: Task, row: Row, value: float, result: str, identity: str, publisher: Publisher) -> dict[str, Any]:
    asked = {"raw": str(row.get("prompt", "")), "reference": [str(row.get("answer", ""))]}
    choices = (row.get("meta") or {}).get("choices")
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "model_id": publisher.model,
        "evaluation_name": task.name,
        "evaluation_result_id": result,
        "sample_id": str(row["id"]),
        "sample_hash": _hash(asked),
        "interaction_type": "single_turn",
        "input": asked | ({"choices": [str(choice) for choice in choices]} if choices else {}),
        "output": {"raw": [str(row.get("response", ""))]},
        "messages": None,
        "answer_attribution": _attribution(row),
        "evaluation": {"score": value, "is_correct": value == 1},
        "token_usage": None,
        "performance": None,
        "error": None,
        "metadata": _texts(
            {
                "sample": row.get("sample") or 0,
                "kind": row.get("kind"),
                "images": len(row.get("images") or ()),
                "output_tokens": row.get("tokens"),
                "finish": row.get("finish"),
            }
        ),
    }


def _attribution(row: Row) -> list[dict[str, Any]]:
    found = extracted(row)
    if found is None:
        return []
    return [
        {
            "turn_idx": 0,
            "source": "output.raw",
            "extracted_value": found,
            "extraction_method": "custom",
            "is_terminal": True,
        }
    ]


def _hash(asked: Mapping[str, Any]) -> str:
    """Return the hash by which the same problem is known across models, as Every Eval Ever's own converters make it."""
    text = json.dumps({"raw": asked["raw"], "reference": asked["reference"]}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is there as texts; the format has no other details."""
    return {key: str(value) for key, value in values.items() if value is not None}
