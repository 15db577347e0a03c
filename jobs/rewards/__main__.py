"""Scores responses offline: what training would have given them, without a GPU.

    python -m jobs.rewards score accuracy < cases.jsonl > scores.jsonl
    python -m jobs.rewards score detection --with penalty_scale=0.5 < runs/det/rollouts.jsonl > scores.jsonl
    python -m jobs.rewards score visual_perception --run runs/geo3k < runs/geo3k/rollouts.jsonl > scores.jsonl

A line of input has ``response`` and what the reward reads: ``answer``, ``target`` as rollouts.jsonl has it,
``visual_key_info``, ``images`` (paths, from the run's folder or from here). A line of output has ``score``, null where
it could not be found out, and of the input's ``id``, ``step`` and ``sample`` what is there. The mean is told on the
standard error.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import click

from eval.target import Target
from jobs import given as given_words
from jobs.data import Example
from jobs.data.bar import bar
from jobs.rewards.scorer import Score, Scorer
from jobs.rewards.settings import OWN, Rewards
from orchestrator.errors import InputError, NotFound, OrchestratorError, Problem, all_at_once
from orchestrator.run_directory import RunDirectory

AT_A_TIME = 256
"""Rows that are scored side by side; a judge's own limit is lower."""
KEPT = ("id", "step", "sample")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, help="Scores responses offline.")
def app() -> None:
    pass


@app.command()
@click.argument("name", metavar="NAME")
@click.option("--with", "given", metavar="KEY=VALUE", multiple=True, help="A setting of the reward, as in a recipe.")
@click.option("--faithful", is_flag=True, help="Do as the published code does.")
@click.option("--run", type=click.Path(path_type=Path), help="The run whose judge is asked and whose images are read.")
def score(*, name: str, given: Sequence[str], faithful: bool, run: Path | None) -> int:
    """Score every line of the standard input by the reward NAME, or by package.module:function."""
    rewards = rewards_of(name, given, faithful=faithful)
    if run is not None and not run.is_dir():
        raise NotFound(f"--run: There is no folder {str(run)!r}.")
    rows = list(_lines(sys.stdin))
    cases = cases_of(rows, run or Path())
    scores = asyncio.run(_scored(rewards, cases, RunDirectory(run) if run else None))
    values = [scored.parts[name] for scored in scores]
    for row, value in zip(rows, values, strict=True):
        kept = {key: row[key] for key in KEPT if key in row}
        print(json.dumps(kept | {"score": value if math.isfinite(value) else None}))
    known = [value for value in values if math.isfinite(value)]
    mean = f"mean {math.fsum(known) / len(known):.4f}" if known else "no score"
    print(f"{name}: {mean} of {len(known)}, {len(values) - len(known)} missing", file=sys.stderr)
    return 0


def rewards_of(name: str, given: Sequence[str], *, faithful: bool = False) -> Rewards:
    """Return the section of a recipe with this one reward, at weight 1.

    Raises:
        InputError: There is no such reward, or a setting is wrong; all are listed.
    """
    if OWN.fullmatch(name) and given:
        raise InputError(f"--with: {name} is a function of your own and has no settings.")
    one = given_words.put({"weight": 1.0}, given)
    return given_words.valid(Rewards, {name: one, "faithful": faithful})


def cases_of(rows: Sequence[dict[str, Any]], folder: Path) -> list[tuple[Example, str]]:
    """Return each row as a problem and the response to it.

    Raises:
        InputError: Rows cannot be used; all are listed by line.
    """
    problems: list[Problem] = []
    cases = []
    for number, row in enumerate(rows, 1):
        try:
            cases.append(_case(row, number, folder))
        except (ValueError, OSError) as error:
            problems.append(Problem(place=f"line {number}", fact=f"{error}".rstrip(".") + "."))
    if problems:
        raise all_at_once("standard input", problems)
    return cases


def _case(row: dict[str, Any], number: int, folder: Path) -> tuple[Example, str]:
    response = row.get("response")
    if not isinstance(response, str):
        raise ValueError(f"response must be a text, got {response!r:.60}")
    target = row.get("target")
    example = Example(
        id=str(row.get("id", number)),
        problem=str(row.get("prompt", "")),
        answer=str(row.get("answer", "")),
        images=tuple((folder / name).read_bytes() for name in row.get("images") or ()),
        visual_key_info=row.get("visual_key_info"),
        kind=row.get("kind") or "math",
        target=Target.from_json(target) if target else None,
    )
    return example, response


def _lines(file: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        row: Any = None
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
        if not isinstance(row, dict):
            raise InputError(f"standard input:{number}: A line is one JSON object, got {line[:40]!r}.")
        yield row


async def _scored(rewards: Rewards, cases: Sequence[tuple[Example, str]], run: RunDirectory | None) -> list[Score]:
    room = asyncio.Semaphore(AT_A_TIME)
    with bar("scoring", len(cases), "responses") as advance:
        async with Scorer(rewards, run=run) as scorer:

            async def one(example: Example, response: str) -> Score:
                async with room:
                    found = await scorer.score(example, response)
                advance(1)
                return found

            return await asyncio.gather(*(one(*case) for case in cases))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return int(app.main(args=arguments, prog_name="python -m jobs.rewards", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
