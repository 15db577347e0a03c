"""The command line of data.

    python -m jobs.data check geo3k data/train.parquet --against geo3k:data/test.parquet
    python -m jobs.data convert vlm_r1 rec.jsonl --with images=coco/train2014 --to verl rec.parquet
    python -m jobs.data show coco instances_val2017.json --with images=val2017 --out sheet.html
    python -m jobs.data partition rollouts.jsonl coco train.json --with images=train2017 --by detection --out parts

Exit codes: 0 good, 1 the data has faults, 2 wrong input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs import given as given_words
from jobs.data.settings import Data
from orchestrator.errors import InputError, OrchestratorError

if TYPE_CHECKING:
    from jobs.data import Example

source_argument = click.argument("source", metavar="SOURCE")
path_argument = click.argument("path", metavar="PATH")
with_option = click.option(
    "--with",
    "given",
    metavar="KEY=VALUE",
    multiple=True,
    help="How to read, such as images=DIR or resize.max_pixels=1000000.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    help="Checks, converts, shows and partitions files of problems with images.",
    epilog="Exit codes: 0 good, 1 the data has faults, 2 wrong input.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def app() -> None:
    """Parse nothing but the command's name."""


@app.command()
@source_argument
@path_argument
@with_option
@click.option("--against", metavar="SOURCE:PATH", help="Another file, whose images shall not be in this one.")
@click.option("--against-with", "against_given", metavar="KEY=VALUE", multiple=True, help="How to read that one.")
@click.option("--processes", type=click.IntRange(1), help="That decode images. Left out: one for each core.")
@json_option
def check(
    *,
    source: str,
    path: str,
    given: Sequence[str],
    against: str | None,
    against_given: Sequence[str],
    processes: int | None,
    as_json: bool,
) -> int:
    """Say whether a file is fit to train on."""
    from jobs.data import check as checking

    other = None
    if against is not None:
        their_source, colon, their_path = against.partition(":")
        if not colon or not their_path:
            raise InputError(f"--against: {against!r} is not SOURCE:PATH, for example geo3k:data/test.parquet.")
        other = section_of(their_source, their_path, against_given)
    report = checking.check(section_of(source, path, given), other, processes)
    _print(report.to_json() if as_json else checking.text(report))
    return 1 if report.findings else 0


@app.command()
@source_argument
@path_argument
@with_option
@click.option("--to", "to", type=click.Choice(["verl", "parquet", "jsonl"]), required=True, help="The format.")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@json_option
def convert(*, source: str, path: str, given: Sequence[str], to: str, out: Path, as_json: bool) -> int:
    """Write a file in another format, and read it back to compare."""
    from jobs.data import convert as conversion

    examples = _examples(source, path, given)
    sha256 = conversion.convert(examples, to, out)
    content = {"schema": 1, "file": str(out), "format": to, "examples": len(examples), "sha256": sha256}
    _print(content if as_json else [f"{out}: {len(examples)} examples as {to}, sha256 {sha256}"])
    return 0


@app.command()
@source_argument
@path_argument
@with_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The HTML file.")
@click.option("--limit", type=click.IntRange(1), default=60, show_default=True, help="Problems on the sheet.")
def show(*, source: str, path: str, given: Sequence[str], out: Path, limit: int) -> int:
    """Write a contact sheet with boxes and points drawn."""
    from jobs.data import show as sheet

    examples = _examples(source, path, given)
    sheet.write(out, f"{source} {path}", examples, limit)
    _print([f"{out}: {min(limit, len(examples))} of {len(examples)} problems"])
    return 0


@app.command()
@click.argument("rollouts", metavar="ROLLOUTS", type=click.Path(path_type=Path))
@source_argument
@path_argument
@with_option
@click.option("--parts", type=click.IntRange(2), default=3, show_default=True, help="How many.")
@click.option("--by", default="total", show_default=True, metavar="REWARD", help="A reward's name, or total.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder.")
@json_option
def partition(
    *, rollouts: Path, source: str, path: str, given: Sequence[str], parts: int, by: str, out: Path, as_json: bool
) -> int:
    """Split training data from easy to hard by rewards in a rollouts log."""
    from jobs.data import partition as parting

    rated = parting.ratings(rollouts, by)
    content = parting.write(out, _examples(source, path, given), rated, by, parts)
    _print(content if as_json else _parts(out, content))
    return 0


def _parts(out: Path, content: dict[str, Any]) -> list[str]:
    lines = [
        f"{out / part['file']}: {part['examples']} examples, {part['highest']:.3g} to {part['lowest']:.3g}"
        for part in content["parts"]
    ]
    left = content["without_rollouts"]
    lines += [f"{each['place']}: {each['id']!r} has no rollouts and is in no part." for each in left]
    return [
        *lines,
        f"{len(left)} without rollouts, {len(content['rollouts_of_other_examples'])} rollouts' ids unknown here",
    ]


def section_of(source: str, path: str, given: Sequence[str]) -> Data:
    """Return the section that a recipe would have, with ``key=value`` as in a recipe.

    Raises:
        InputError: A value cannot be used; all problems are listed.
    """
    return given_words.valid(Data, given_words.put({"source": source, "path": path}, given))


def _examples(source: str, path: str, given: Sequence[str]) -> list[Example]:
    from jobs import data

    return data.read(section_of(source, path, given))


def _print(what: dict[str, Any] | list[str]) -> None:
    print(json.dumps(what, indent=1, ensure_ascii=False) if isinstance(what, dict) else "\n".join(what))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; what a user can cause is printed, not raised."""
    command: Callable[..., Any] = app.main
    try:
        return int(command(args=arguments, prog_name="python -m jobs.data", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        # A file that is not there is wrong input too: 1 is kept for faults of the data.
        return 2


if __name__ == "__main__":
    sys.exit(main())
