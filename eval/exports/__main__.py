"""The command line of the exports: ``python -m eval.exports FORMAT RUN --out DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import compare
from eval.exports import coco, evaluated, every_eval_ever, lm_eval, vlmevalkit
from eval.exports.evaluated import Evaluated
from eval.exports.every_eval_ever import RELATIONSHIPS, Publisher
from orchestrator.errors import InputError, OrchestratorError

FORMATS = ("lm-eval", "coco", "every-eval-ever", "vlmevalkit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, print their paths and return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        run = compare.find(given.run)
        found = evaluated.load(run, compare.label(run, given.label), tuple(given.task))
        paths = _write(given, found)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in paths:
        print(path)
    return 0


def _write(given: argparse.Namespace, found: Evaluated) -> list[Path]:
    if given.format == "lm-eval":
        return lm_eval.write(found, given.out, model=given.model)
    if given.format == "coco":
        return coco.write(found, given.out)
    if given.format == "vlmevalkit":
        return vlmevalkit.write(found, given.out, model=given.model)
    return every_eval_ever.write(found, given.out, _publisher(given, found))


def _publisher(given: argparse.Namespace, found: Evaluated) -> Publisher:
    pairs = [text.partition("=") for text in given.dataset]
    wrong = [task for task, equals, _ in pairs if not equals or task not in {one.name for one in found.tasks}]
    if wrong:
        known = ", ".join(task.name for task in found.tasks)
        raise InputError(f"--dataset: {wrong[0]!r} is not TASK=ORGANISATION/NAME[:SPLIT]. Tasks: {known}.")
    return Publisher(
        model=given.model or found.model,
        organization=given.organization,
        relationship=given.relationship,
        collection=given.collection,
        datasets={task: dataset for task, _, dataset in pairs},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.exports", description="Write an evaluation in the files of others."
    )
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("run", metavar="RUN", help="a run's name, or a folder with eval/ in it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to")
    parser.add_argument("--label", metavar="NAME", help="which model; left out: after, or the only one")
    parser.add_argument("--task", action="append", default=[], metavar="NAME", help="only this task; may be repeated")
    parser.add_argument("--model", metavar="NAME", help="what the model is called; every-eval-ever: ORGANISATION/NAME")
    eee = parser.add_argument_group("every-eval-ever")
    eee.add_argument("--organization", default="unknown", metavar="NAME", help="who evaluated")
    eee.add_argument("--relationship", default="other", choices=RELATIONSHIPS, help="of the evaluator to the model")
    eee.add_argument("--collection", metavar="NAME", help="what it is filed under; left out: the run's name")
    eee.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="TASK=REPO[:SPLIT]",
        help="a task's data set on Hugging Face; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
