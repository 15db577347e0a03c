"""lm-evaluation-harness: ``results_<time>.json`` and ``samples_<task>_<time>.jsonl`` in the model's folder.

As its version 0.4 writes them: metrics are called ``name,filter``, here always ``name,none``, with
``name_stderr,none`` beside them; right or wrong is its ``acc``; several answers to a problem are the inner list of
``resps``. Hashes are made as there, of our documents. What only its own runs have, such as Jinja templates
of prompts, is left out.

Source:
    lm-evaluation-harness, ``lm_eval/loggers/evaluation_tracker.py`` and ``lm_eval/evaluator.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.comparison import ACCURACY, extracted
from eval.exports.evaluated import Evaluated, Measure, Task, document, lines
from eval.record import Row

FILTER = "none"
SERVED = "local-chat-completions"
"""Its name for a server that speaks OpenAI's language."""
NOT_IN_A_NAME = re.compile(r"[\"<>:/|\\?*\[\]]+")
DOCUMENT = ("id", "prompt", "images", "answer", "kind", "target", "meta", "visual_key_info")


def write(found: Evaluated, out: Path, *, model: str | None = None) -> list[Path]:
    """Write one model's results and answers and return the files, the results first.

    Args:
        found: What the model answered.
        out: The folder of all models.
        model: What the model is called; its folder or name if left out.
    """
    name = model or found.model
    folder = out / NOT_IN_A_NAME.sub("__", name)
    time = datetime.fromtimestamp(found.finished_at, UTC).replace(tzinfo=None).isoformat().replace(":", "-")
    samples = {task.name: _samples(task) for task in found.tasks}
    files = [document(folder / f"results_{time}.json", _results(found, samples, name))]
    return files + [lines(folder / f"samples_{task}_{time}.jsonl", rows) for task, rows in samples.items()]


def _results(found: Evaluated, samples: dict[str, list[dict[str, Any]]], name: str) -> dict[str, Any]:
    tasks = found.tasks
    first = tasks[0]
    versions = first.summary.get("versions") or {}
    return {
        "results": {task.name: {"alias": task.name} | _metrics(task) for task in tasks},
        "group_subtasks": {task.name: [] for task in tasks},
        "configs": {task.name: _config(task) for task in tasks},
        "versions": {task.name: versions.get("orchestrator", "0") for task in tasks},
        "n-shot": {task.name: 0 for task in tasks},
        "higher_is_better": {task.name: {_name(one): one.higher_is_better for one in task.measures} for task in tasks},
        "n-samples": {task.name: {"original": len(task.answers), "effective": len(task.answers)} for task in tasks},
        "config": {
            "model": first.engine or SERVED,
            "model_args": f"pretrained={name}",
            "model_dtype": first.setting("dtype"),
            "model_revision": first.summary.get("model_revision"),
            "model_sha": first.summary.get("model_sha256"),
            "batch_size": str(first.setting("batch", "")),
            "device": first.setting("device"),
            "limit": None,
        },
        "date": found.finished_at,
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": None,
        "task_hashes": {task: _hash("".join(_hashes(row) for row in rows)) for task, rows in samples.items()},
        "model_source": first.engine or SERVED,
        "model_name": name,
        "model_name_sanitized": NOT_IN_A_NAME.sub("__", name),
        "system_instruction": None,
        "chat_template": None,
        "exported_by": f"orchestrator {versions.get('orchestrator', '')}".strip(),
    }


def _metrics(task: Task) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in task.measures:
        found[f"{_name(one)},{FILTER}"] = one.interval.estimate
        found[f"{_name(one)}_stderr,{FILTER}"] = one.standard_error
    return found


def _config(task: Task) -> dict[str, Any]:
    data = task.summary.get("data") or {}
    return {
        "task": task.name,
        "dataset_path": data.get("path"),
        "dataset_name": data.get("source"),
        "num_fewshot": 0,
        "metric_list": [
            {"metric": _name(one), "aggregation": "mean", "higher_is_better": one.higher_is_better}
            for one in task.measures
        ],
        "output_type": "generate_until",
        "generation_kwargs": _generation(task),
        "repeats": max(map(len, task.answers.values())),
        "should_decontaminate": False,
        "metadata": {"version": (task.summary.get("versions") or {}).get("orchestrator", "0")},
    }


def _generation(task: Task) -> dict[str, Any]:
    temperature = task.setting("temperature", 0)
    names = {"max_new_tokens": "max_gen_toks", "top_p": "top_p", "top_k": "top_k"}
    given = {theirs: task.setting(ours) for ours, theirs in names.items()}
    known = {name: value for name, value in given.items() if value is not None}
    return {"do_sample": temperature > 0, "temperature": temperature} | known


def _samples(task: Task) -> list[dict[str, Any]]:
    measures, generation = task.measures, _generation(task)
    return [_sample(number, task, rows, measures, generation) for number, rows in enumerate(task.answers.values())]


def _sample(
    number: int, task: Task, rows: Sequence[Row], measures: Sequence[Measure], generation: dict[str, Any]
) -> dict[str, Any]:
    doc = {key: rows[0][key] for key in DOCUMENT if key in rows[0]}
    prompt, target = str(rows[0].get("prompt", "")), str(rows[0].get("answer", ""))
    values = {_name(one): [task.value(row, one) for row in rows] for one in measures}
    means = {name: _mean(of) for name, of in values.items()}
    said = ["" if (one := extracted(row)) is None else one for row in rows]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": generation}},
        "resps": [[str(row.get("response", "")) for row in rows]],
        "filtered_resps": said if len(said) == 1 else [said],
        "filter": FILTER,
        "metrics": [name for name, mean in means.items() if mean is not None],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        **{name: mean for name, mean in means.items() if mean is not None},
    }


def _name(measure: Measure) -> str:
    return "acc" if measure.name == ACCURACY else measure.name


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _hashes(row: dict[str, Any]) -> str:
    return f"{row['doc_hash']}{row['prompt_hash']}{row['target_hash']}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
