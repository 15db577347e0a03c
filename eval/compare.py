"""What is different between runs, and whether it is chance: ``python -m orchestrator compare RUN_A RUN_B [...]``.

    compare base ours                  the models labelled ``after`` of two runs
    compare ours:before ours:after     two labels, of one run or of two; ``compare ours`` is short for it
    compare base ours-1,ours-2,ours-3  seeds of one setting, joined by commas

The first is what all others are compared with. Samples are paired by id and only if they are the same problems:
images, answer and target. Nothing here is written; ``between`` is what the report draws.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import comparison, record
from eval.comparison import Answers, Comparison, Side
from eval.record import FIRST, Row, number
from eval.significance import mean
from orchestrator import run_directory
from orchestrator.errors import InputError, NotFound, OrchestratorError, Problem, all_at_once
from orchestrator.run_directory import RunDirectory

SCHEMA = 1
LABEL = "after"
NAMED = 3
FLIPS_SHOWN = 20
OTHER = {"answer": "another answer", "images": "other images", "target": "another target"}
"""What makes two rows one problem, and how to say that it does not."""
# What of a plan says nothing about what was done differently.
SILENT = frozenset({"schema", "name", "recipe_sha256"})
# What of a summary says how it was measured; the rest is what was measured.
MEASURED_HOW = (
    "data",
    "model",
    "model_sha256",
    "model_revision",
    "judge",
    "settings",
    "decoding",
    "engine",
    "seeds",
    "versions",
)
IN_THE_PLAN = frozenset({"data", "settings", "decoding", "seeds"})


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model to compare: a label of a run, or of several runs that differ in their seed only.

    Attributes:
        runs: The runs, one a seed.
        label: Which of their models.
        title: What it is called in tables; the runs' names and the label if empty.
    """

    runs: tuple[RunDirectory, ...]
    label: str
    title: str = ""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.title or f"{','.join(run.name for run in self.runs)}:{self.label}"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting that differs.

    Attributes:
        arm: Of which arm it is compared with the first.
        key: Dotted: ``roles.train.settings.lr``, or ``eval.geometry3k.versions.torch``.
        before: The value of the first arm; None where it has none.
        after: That of the other.
    """

    arm: str
    key: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Total:
    """A number that only all answers together have, such as mAP or WeMath's strict score. There is no test for it.

    Attributes:
        arm: Which arm is compared with the first.
        task: The task.
        name: Dotted: ``detection.AP50``.
        before: Of the first arm, the mean over its seeds; None where it has none.
        after: Of the other.
    """

    arm: str
    task: str
    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Several models against the first of them.

    Attributes:
        arms: The models, the reference first.
        results: Each task of each other arm, corrected together; labels are the arms' names.
        totals: What is known of all answers together only; as the summaries say it, whatever ``common``.
        changes: Settings that differ.
        notes: What a reader must know besides, as sentences.
    """

    arms: tuple[Arm, ...]
    results: tuple[Comparison, ...]
    totals: tuple[Total, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON; what cannot be known is None."""
        return {
            "schema": SCHEMA,
            "arms": [
                {"name": arm.name, "label": arm.label, "runs": [str(run.path) for run in arm.runs]} for arm in self.arms
            ],
            "results": [_without_nan(dataclasses.asdict(one)) for one in self.results],
            "totals": [dataclasses.asdict(total) for total in self.totals],
            "changes": [dataclasses.asdict(change) for change in self.changes],
            "notes": list(self.notes),
        }


def between(arms: Sequence[Arm | RunDirectory], *, tasks: Sequence[str] = (), common: bool = False) -> Comparisons:
    """Return how every other arm differs from the first.

    Args:
        arms: At least two; a run stands for the model that its label ``after``, or its only label, names.
        tasks: Only these tasks. Left out: those that the first arm shares with each other one.
        common: Compare the problems that are the same on both sides, and say how many are not. Otherwise
            different data are refused.

    Raises:
        NotFound: A run lacks the label or the task.
        InputError: There is nothing to compare, or the problems are not the same; all that differs is listed.
    """
    named = _distinct([arm if isinstance(arm, Arm) else Arm(runs=(arm,), label=label(arm)) for arm in arms])
    found = [_tasks(arm) for arm in named]
    wanted = _wanted(named, found, tasks)
    results: list[Comparison] = []
    notes: list[str] = []
    problems: list[Problem] = []
    for arm, of in zip(named[1:], found[1:], strict=True):
        for task in wanted:
            if task not in found[0] or task not in of:
                continue
            before, after = _side(named[0], task, found[0][task]), _side(arm, task, of[task])
            same, differing = _same_problems(before, after)
            if differing and not (common and same):
                problems.append(Problem(place=f"{task}: {named[0].name} and {arm.name}", fact=f"{differing}."))
                continue
            if differing:
                notes.append(
                    f"{task}: {len(same)} problems are the same in {named[0].name} and {arm.name}. "
                    f"Left out are {differing}."
                )
                before, after = before.only(same), after.only(same)
            notes += _asked_differently(before, after)
            results.append(comparison.compare(before, after))
    if problems:
        raise _different(problems)
    return Comparisons(
        arms=named,
        results=tuple(comparison.correct(results)),
        totals=tuple(total for one in results for total in _totals(named, one)),
        changes=tuple(_changes(named, [task for task in wanted if any(task in of for of in found)])),
        notes=(
            *notes,
            *_lonely(named, found, tasks),
            *_unfinished(named, wanted),
            *_twins(named, wanted),
            *_within(named),
        ),
    )


def arm(text: str, default: str | None = None) -> Arm:
    """Return the arm that ``RUN[:LABEL][,RUN...]`` names.

    Raises:
        NotFound: There is no such run, or it has no such label.
        InputError: A run has several labels and none was named, or the seeds' labels differ.
    """
    found = []
    for one in text.split(","):
        name, colon, wanted = one.rpartition(":")
        run = find(name if colon else one)
        found.append((run, label(run, wanted if colon else default)))
    labels = sorted({of for _, of in found})
    if len(labels) > 1:
        raise InputError(f"{text}: seeds of one setting have one label, not {', '.join(labels)}. Name it for each.")
    return Arm(runs=tuple(run for run, _ in found), label=labels[0])


def arms(texts: Sequence[str], default: str | None = None) -> list[Arm]:
    """Return the arms of a command line; one run alone is its first label against each other one."""
    if len(texts) > 1:
        return [arm(text, default) for text in texts]
    run = find(texts[0])
    labels = labels_of(run)
    if len(labels) < 2:
        known = f"only the label {labels[0]}" if labels else "no evaluation"
        raise InputError(f"{run.path}: has {known}, so there is nothing to compare it with. Name a second run.")
    return [Arm(runs=(run,), label=one) for one in labels]


def label(run: RunDirectory, wanted: str | None = None) -> str:
    """Return the wanted label of a run, else ``after``, else its only one.

    Raises:
        NotFound: It has no such label, or no evaluation at all.
        InputError: It has several and none is called ``after``.
    """
    labels = labels_of(run)
    if not labels:
        raise NotFound(f"{run.path}: has no evaluation (eval/LABEL/TASK/samples.jsonl). Evaluate the run first.")
    if wanted is not None and wanted not in labels:
        raise NotFound(f"{run.path}: has no label {wanted!r}. Its labels: {', '.join(labels)}.")
    if wanted is not None or LABEL in labels or len(labels) == 1:
        return wanted or (LABEL if LABEL in labels else labels[0])
    raise InputError(f"{run.path}: has several labels, {', '.join(labels)}. Name one: {run.name}:{labels[0]}.")


def find(text: str) -> RunDirectory:
    """Return the run of that name or folder; a folder with an ``eval`` in it will do.

    Raises:
        NotFound: There is no such run.
    """
    # An evaluation by hand has no plan, and is compared like any other.
    folder = Path(text)
    if folder.joinpath("eval").is_dir() and (os.sep in text or text in {".", ".."}):
        return RunDirectory(folder.absolute().resolve())
    return run_directory.find(text)


def labels_of(run: RunDirectory) -> list[str]:
    """Return the labels of a run's evaluations, ``before`` first."""
    found = {path.parent.parent.name for path in run.eval.glob("*/*/samples.jsonl")}
    return sorted(found, key=lambda one: (one != FIRST, one))


def _distinct(named: Sequence[Arm]) -> tuple[Arm, ...]:
    if len(named) < 2:
        raise InputError("compare: one model cannot be compared. Name a second run.")
    models = [(tuple(str(run.path) for run in one.runs), one.label) for one in named]
    twice = sorted({one.name for one, model in zip(named, models, strict=True) if models.count(model) > 1})
    if twice:
        raise InputError(f"compare: {', '.join(twice)} is named more than once. A model does not differ from itself.")
    names = [one.name for one in named]
    # Runs of one name in different folders, such as evaluations by hand.
    return tuple(
        one if names.count(one.name) == 1 else dataclasses.replace(one, title=f"{','.join(paths)}:{of}")
        for one, (paths, of) in zip(named, models, strict=True)
    )


def _tasks(of: Arm) -> dict[str, list[Path]]:
    """Return the samples of every task that all seeds of an arm have."""
    seeds = [{path.parent.name: path for path in (run.eval / of.label).glob("*/samples.jsonl")} for run in of.runs]
    shared = [task for task in sorted(seeds[0]) if all(task in one for one in seeds)]
    return {task: [one[task] for one in seeds] for task in shared}


def _wanted(named: Sequence[Arm], found: Sequence[Mapping[str, object]], tasks: Sequence[str]) -> list[str]:
    lacking = [
        f"{one.name} has no {task}" for task in tasks for one, of in zip(named, found, strict=True) if task not in of
    ]
    if lacking:
        raise NotFound(f"--task: {'; '.join(lacking)}. Tasks: {_listed(named, found)}.")
    shared = [task for task in found[0] if any(task in of for of in found[1:])]
    if not shared:
        raise InputError(f"compare: no task was answered by the first and another one. Tasks: {_listed(named, found)}.")
    return list(tasks) or shared


def _listed(named: Sequence[Arm], found: Sequence[Mapping[str, object]]) -> str:
    return "; ".join(f"{one.name}: {', '.join(of) or 'none'}" for one, of in zip(named, found, strict=True))


def _side(of: Arm, task: str, files: Sequence[Path]) -> Side:
    return Side(label=of.name, task=task, runs=tuple(record.answers(path) for path in files))


def _same_problems(before: Side, after: Side) -> tuple[frozenset[str], str]:
    """Return the ids of the problems that all runs of both sides share, and what is not the same in words."""
    reference = before.runs[0]
    same = frozenset(reference)
    sentences = []
    for side, place, other in _others(before, after):
        name = side.label if len(side.runs) == 1 else f"run {place + 1} of {side.label}"
        ours, theirs = reference.keys() - other.keys(), other.keys() - reference.keys()
        both = reference.keys() & other.keys()
        unlike = {what: {key for key in both if not _equal(reference[key][0], other[key][0], what)} for what in OTHER}
        parts = [
            *([f"{len(ours)} that {name} lacks ({_some(ours)})"] if ours else []),
            *([f"{len(theirs)} that only {name} has ({_some(theirs)})"] if theirs else []),
            *(f"{len(keys)} with {OTHER[what]} in {name} ({_some(keys)})" for what, keys in unlike.items() if keys),
        ]
        sentences += [f"problems: {', '.join(parts)}"] if parts else []
        same = same & both - frozenset().union(*unlike.values())
    return same, "; ".join(sentences)


def _others(before: Side, after: Side) -> Iterable[tuple[Side, int, Answers]]:
    for side in (before, after):
        for place, one in enumerate(side.runs):
            if side is not before or place > 0:
                yield side, place, one


def _equal(first: Row, second: Row, what: str) -> bool:
    # Older evaluations have no target; what is not there cannot differ.
    return what not in first or what not in second or first[what] == second[what]


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED]) + (", ..." if len(ordered) > NAMED else "")


def _different(problems: Sequence[Problem]) -> InputError:
    way_out = "Evaluate both on the same data, or compare the problems that are the same with --common."
    return all_at_once(
        "compare: the models did not answer the same problems", [*problems[:-1], _last(problems, way_out)]
    )


def _last(problems: Sequence[Problem], way_out: str) -> Problem:
    return dataclasses.replace(problems[-1], way_out=way_out)


def _asked_differently(before: Side, after: Side) -> list[str]:
    first, second = before.answers, after.answers
    other = [key for key in first if key in second and first[key][0].get("prompt") != second[key][0].get("prompt")]
    if not other:
        return []
    return [f"{before.task}: {len(other)} of {len(first)} prompts of {after.label} are not those of {before.label}."]


def _lonely(named: Sequence[Arm], found: Sequence[Mapping[str, object]], tasks: Sequence[str]) -> list[str]:
    """Return a sentence for every task that was not compared although somebody answered it."""
    if tasks:
        return []
    first = found[0]
    return [
        f"{one.name} has no counterpart of {', '.join(alone)} in {named[0].name}."
        for one, of in zip(named[1:], found[1:], strict=True)
        if (alone := sorted(of.keys() - first.keys()))
    ] + [
        f"{named[0].name} has no counterpart of {', '.join(alone)} in {one.name}."
        for one, of in zip(named[1:], found[1:], strict=True)
        if (alone := sorted(first.keys() - of.keys()))
    ]


def _unfinished(named: Sequence[Arm], tasks: Sequence[str]) -> list[str]:
    return [
        f"{run.name}: the evaluation of {one.label} on {task} has not finished."
        for one in named
        for run in one.runs
        for task in tasks
        if (folder := run.eval / one.label / task).is_dir() and not (folder / "summary.json").exists()
    ]


def _changes(named: Sequence[Arm], tasks: Sequence[str]) -> list[Change]:
    changes = []
    for one in named[1:]:
        pair = (named[0], one)
        # A plan says all this once; without, as for an evaluation by hand, the summaries do.
        said = IN_THE_PLAN if all(record.plan(arm.runs[0]) for arm in pair) else frozenset()
        first, other = (_settings(arm.runs[0], arm.label, tasks, said) for arm in pair)
        changes += [Change(arm=one.name, key=key, before=a, after=b) for key, a, b in _differing(first, other)]
    return changes


def _totals(named: Sequence[Arm], one: Comparison) -> list[Total]:
    """Return the numbers of both summaries that are neither counts nor means of parts."""
    other = next(arm for arm in named if arm.name == one.labels[1])
    first, second = _measured(named[0], one.task), _measured(other, one.task)
    return [
        Total(arm=other.name, task=one.task, name=name, before=first.get(name), after=second.get(name))
        for name in dict.fromkeys([*first, *second])
    ]


def _measured(of: Arm, task: str) -> dict[str, float]:
    seeds = [_summary(run, of.label, task) for run in of.runs]
    flat = [_flat({key: value for key, value in one.items() if isinstance(value, dict)}) for one in seeds]
    names = [name for name in flat[0] if name.split(".")[0] not in (*MEASURED_HOW, "parts", "pass_at_k")]
    found = {name: mean([number(one.get(name)) for one in flat])[0] for name in names}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _twins(named: Sequence[Arm], tasks: Sequence[str]) -> list[str]:
    """Return a sentence for every arm with the very weights of the first: what differs then is not the model."""
    first, *others = (_weights(one, tasks) for one in named)
    return [
        f"{one.name} has the same weights as {named[0].name} (sha256 {', '.join(sorted(of))})."
        for one, of in zip(named[1:], others, strict=True)
        if of and of == first
    ]


def _weights(of: Arm, tasks: Sequence[str]) -> set[str]:
    """Return the beginnings of the weights' hashes; nothing if one is not known."""
    summaries = [summary for run in of.runs for task in tasks if (summary := _summary(run, of.label, task))]
    hashes = [summary.get("model_sha256") for summary in summaries]
    return {str(one)[:12] for one in hashes} if None not in hashes else set()


def _summary(run: RunDirectory, of: str, task: str) -> dict[str, Any]:
    found: dict[str, Any] = record.document(run.eval / of / task / "summary.json") or {}
    return found


def _within(named: Sequence[Arm]) -> list[str]:
    """Return in which settings the seeds of an arm differ, which should be the seed and nothing else."""
    sentences = []
    for one in named:
        first, *others = (_plan(run) for run in one.runs)
        keys = dict.fromkeys(key for other in others for key, _, _ in _differing(first, other))
        sentences += [f"The runs of {one.name} differ in {', '.join(keys)}."] if keys else []
    return sentences


def _settings(run: RunDirectory, of: str, tasks: Sequence[str], said: frozenset[str]) -> dict[str, Any]:
    summaries = {task: _summary(run, of, task) for task in tasks}
    measured = {
        f"eval.{task}": {key: summary[key] for key in MEASURED_HOW if key in summary and key not in said}
        for task, summary in summaries.items()
    }
    return _plan(run) | _flat(measured)


def _plan(run: RunDirectory) -> dict[str, Any]:
    plan: dict[str, Any] = {key: value for key, value in record.plan(run).items() if key not in SILENT}
    roles = plan.get("roles")
    if isinstance(roles, list):
        plan["roles"] = {str(role.get("name", place)): role for place, role in enumerate(roles)}
    return _flat(plan)


def _flat(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return dotted keys; a list is one value."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, (*path, key))
        else:
            found[".".join((*path, key))] = inner
    return found


def _differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = sorted(first.keys() | other.keys())
    return [(key, first.get(key), other.get(key)) for key in keys if first.get(key) != other.get(key)]


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="compare", description="Say what changed between runs, and whether it is chance."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN[:LABEL][,RUN...]", help="names or folders; commas join seeds of one setting"
    )
    parser.add_argument("--label", metavar="NAME", help="which model of each run; left out: after, or its only one")
    parser.add_argument("--task", action="append", default=[], metavar="NAME", help="only this task; may be repeated")
    parser.add_argument("--common", action="store_true", help="compare the problems that are the same, not all")
    parser.add_argument("--flips", type=int, default=FLIPS_SHOWN, metavar="N", help="how many changed problems to list")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        found = between(arms(given.runs, given.label), tasks=given.task, common=given.common)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from eval import compare_table

        compare_table.show(found, given.flips)
    return 0


if __name__ == "__main__":
    sys.exit(main())
