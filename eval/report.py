"""One self-contained page that shows what a run did: ``python -m eval.report --run-dir DIR``.

The page needs no network, no server and, except for filters and pointers, no script. It can be
made of an unfinished run too and then says what is not there yet. Whatever a model or a data set
wrote is escaped, and a content security policy keeps the page from running anything but its own script.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

import orchestrator
from eval import chart, comparison, curves, record, selection, timeline
from eval.comparison import Comparison
from eval.record import Evaluation, Row, Steps, number
from eval.significance import Interval
from orchestrator import ledger
from orchestrator.errors import NotFound, OrchestratorError
from orchestrator.files import write_text
from orchestrator.run_directory import RunDirectory

TEMPLATES = Path(__file__).parent / "templates"
IMAGE_REFERENCE = re.compile(r"images/[0-9a-f]{16}\.(png|jpg|img)")
MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
IMAGE_BYTES_MAX = 400_000
THUMBNAIL_PX = 480
TAG = re.compile(r"<(/?)(think|answer|perception|info\d{0,3})>|(\\boxed\{[^{}\n]{0,200}\})")
CHANGED_SHOWN = {True: 4, False: 2}
EVENTS_SHOWN = 400


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model was asked: what is particular to the problem, and what every prompt ends with."""

    question: str
    instruction: str


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One response as the page shows it."""

    row: Row
    reasons: tuple[str, ...]
    images: tuple[str, ...]
    prompt: Prompt
    response: Markup
    correct: str
    judge: Row


@dataclass(frozen=True, kw_only=True)
class Change:
    """A problem on which two models disagree."""

    gained: bool
    images: tuple[str, ...]
    prompt: Prompt
    answer: str
    before: Markup
    after: Markup


@dataclass(frozen=True, kw_only=True)
class Result:
    """One task: the numbers and the problems behind them."""

    comparison: Comparison
    scale: Markup
    changes: tuple[Change, ...]


def build(run: RunDirectory) -> str:
    """Return the report of ``run`` as HTML.

    Raises:
        NotFound: There is no such folder.
    """
    if not run.path.is_dir():
        raise NotFound(f"--run-dir: {run.path} is not a folder. `python -m orchestrator list` names the runs.")
    events = ledger.read(run.ledger)
    steps = record.steps(run)
    evaluations = record.evaluations(run)
    chosen, rollouts = selection.choose(run.rollouts)
    plan = record.plan(run)
    page = _environment()
    script = _asset("report.js")
    return page.get_template("report.html").render(
        run=run,
        plan=plan,
        plan_json=json.dumps(plan, indent=2),
        state=timeline.state(events, [role["name"] for role in plan.get("roles", ()) if role.get("kind") == "batch"]),
        events=events[-EVENTS_SHOWN:],
        events_left_out=max(0, len(events) - EVENTS_SHOWN),
        attempts=timeline.attempts_s(events),
        lanes=timeline.lanes(events),
        training_time=timeline.training_time(steps),
        productive=timeline.productive_share(steps, events),
        steps=steps,
        figures=curves.figures(steps),
        results=[_result(run, one, evaluations) for one in comparison.comparisons(evaluations)],
        evaluations=evaluations,
        checkpoints=record.checkpoints(run),
        judge=record.judge_quality(run),
        rollouts=_rollouts(run, chosen),
        rollouts_total=rollouts,
        missing=missing(run, steps, evaluations, rollouts),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=orchestrator.__version__,
        python=platform.python_version(),
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def missing(run: RunDirectory, steps: Steps, evaluations: Sequence[Evaluation], rollouts: int) -> list[str]:
    """Return a sentence for every part of a complete run that is not there yet."""
    unsummed = [f"{e.label} on {e.task} ({len(e.samples)} problems so far)" for e in evaluations if not e.summary]
    found = [
        (not run.plan.exists(), "There is no plan.json, so this folder was not made by `submit`."),
        (not run.ledger.exists(), "There is no ledger: the run has not started."),
        (not steps.rows, "There are no training metrics yet."),
        (not rollouts, "No rollouts were recorded yet."),
        (not record.checkpoints(run), "No checkpoint has been committed yet."),
        (not evaluations, "Nothing has been evaluated yet, so there is no before and after."),
        (bool(unsummed), f"These evaluations have not finished: {', '.join(unsummed)}."),
        (
            bool(evaluations) and len({e.label for e in evaluations}) < 2,
            "Only one model has been evaluated, so there is no before and after.",
        ),
    ]
    return [sentence for is_missing, sentence in found if is_missing]


def marked(text: str) -> Markup:
    """Return text of a model, escaped, with the tags we know and the boxed answer coloured.

    A tag that is never closed colours what follows it; a stray closing tag is shown as it stands.
    """
    parts: list[Markup] = []
    open_tags: list[str] = []
    position = 0
    for match in TAG.finditer(text):
        parts.append(escape(text[position : match.start()]))
        parts.append(_mark(match, open_tags))
        position = match.end()
    parts.append(escape(text[position:]))
    parts += [Markup("</span>")] * len(open_tags)
    return Markup("").join(parts)


def image_uri(run: RunDirectory, reference: Any) -> str:
    """Return a recorded image as a data URI; empty if it is not there.

    Only names that we gave ourselves are followed, so that a log cannot make the page hold some
    other file of the machine.
    """
    if not isinstance(reference, str) or not IMAGE_REFERENCE.fullmatch(reference):
        return ""
    path = run.path / reference
    if path.is_symlink() or not path.is_file():
        return ""
    data = path.read_bytes()
    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")
    if not kind or len(data) > IMAGE_BYTES_MAX:
        kind, data = "jpeg", _thumbnail(data)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if data else ""


def main(arguments: list[str] | None = None) -> int:
    """Write the report beside the run and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Write a run's report.")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    run = RunDirectory(parser.parse_args(arguments).run_dir.absolute())
    started = time.monotonic()
    try:
        write_text(run.report, build(run))
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{run.report} ({run.report.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s)")
    return 0


def _environment() -> Environment:
    page = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "number": _number,
        "signed": _signed,
        "mean": lambda value: f"{value:.3f}" if value == value else "–",
        "percent": lambda value: f"{100 * value:.1f} %" if value == value else "–",
        "points": lambda value: f"{100 * value:+.1f}",
        "seconds": timeline.seconds,
        "size": lambda value: f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB",
        "clock": lambda at: datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S"),
        "date": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "p_value": comparison.p_value,
        "kind": timeline.kind,
        "fields": _fields,
    }
    return page


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _number(value: Any) -> str:
    found = number(value)
    return chart.short(found) if found == found else "–"


def _signed(value: Any) -> str:
    found = number(value)
    return f"{found:+.3f}" if found == found else "–"


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in fields.items() if key not in ("role", "replica") and value != ""
    )


def _mark(match: re.Match[str], open_tags: list[str]) -> Markup:
    closing, name, boxed = match.groups()
    if boxed:
        return Markup('<b class="boxed">{}</b>').format(boxed)
    tag = Markup('<b class="tag">{}</b>').format(match.group(0))
    style = "info" if name.startswith("info") else name
    if not closing:
        open_tags.append(name)
        return Markup('<span class="in-{}">').format(style) + tag
    if open_tags and open_tags[-1] == name:
        open_tags.pop()
        return tag + Markup("</span>")
    return tag


def _thumbnail(data: bytes) -> bytes:
    """Return a small JPEG; nothing if these bytes are no image."""
    import io

    from PIL import Image, UnidentifiedImageError  # only pages with large or rare images need it

    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        return b""
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def common_end(prompts: Sequence[str]) -> str:
    """Return the whole sentences that all prompts end with, so that a page can say them softly.

    Nothing for fewer than two different prompts, of which everything would be common.
    """
    if len(set(prompts)) < 2:
        return ""
    backwards = [prompt[::-1] for prompt in prompts]
    first, last = min(backwards), max(backwards)  # in sorted order these two differ earliest
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    sentence = re.search(r"[.?!:]\s+(?=\S)", end := first[:same][::-1])
    return end[sentence.end() :] if sentence else ""


def _prompt(row: Row, instruction: str) -> Prompt:
    text = str(row.get("prompt", "")).replace("<image>", "").strip()
    return Prompt(question=text.removesuffix(instruction).strip(), instruction=instruction)


def _images(run: RunDirectory, row: Row) -> tuple[str, ...]:
    uris = (image_uri(run, reference) for reference in row.get("images") or ())
    return tuple(uri for uri in uris if uri)


def _rollouts(run: RunDirectory, chosen: Sequence[selection.Chosen]) -> list[Rollout]:
    instruction = common_end([str(one.row.get("prompt", "")) for one in chosen])
    return [_rollout(run, one, instruction) for one in chosen]


def _rollout(run: RunDirectory, chosen: selection.Chosen, instruction: str) -> Rollout:
    row = chosen.row
    accuracy = number((row.get("rewards") or {}).get("accuracy"))
    return Rollout(
        row=row,
        reasons=chosen.reasons,
        images=_images(run, row),
        prompt=_prompt(row, instruction),
        response=marked(str(row.get("response", ""))),
        correct="unknown" if accuracy != accuracy else "correct" if accuracy > 0 else "wrong",
        judge=row.get("judge") or {},
    )


def _result(run: RunDirectory, one: Comparison, evaluations: Sequence[Evaluation]) -> Result:
    before, after = (next(e for e in evaluations if e.task == one.task and e.label == label) for label in one.labels)
    instruction = common_end([str(sample.get("prompt", "")) for sample in after.samples.values()])
    return Result(
        comparison=one,
        scale=_scale(one.intervals),
        changes=tuple(
            _change(run, key, before, after, instruction, gained=gained)
            for gained, count in CHANGED_SHOWN.items()
            for key in comparison.changed(before, after, gained=gained)[:count]
            if one.test
        ),
    )


def _change(
    run: RunDirectory, key: str, before: Evaluation, after: Evaluation, instruction: str, *, gained: bool
) -> Change:
    first, second = before.samples[key], after.samples[key]
    return Change(
        gained=gained,
        images=_images(run, second),
        prompt=_prompt(second, instruction),
        answer=str(second.get("answer", "")),
        before=marked(str(first.get("response", ""))),
        after=marked(str(second.get("response", ""))),
    )


def _scale(intervals: tuple[Interval, Interval]) -> Markup:
    """Return both accuracies with their intervals on one scale from 0 to 1."""
    rows = Markup("").join(
        Markup(
            '<div class="whisker s{k}"><i style="left:{low:.1f}%;width:{width:.1f}%"></i>'
            '<b style="left:{at:.1f}%"></b></div>'
        ).format(k=k, low=100 * i.low, width=100 * (i.high - i.low), at=100 * i.estimate)
        for k, i in enumerate(intervals)
        if i.estimate == i.estimate
    )
    return Markup(
        '<div class="scale" aria-hidden="true">{}'
        "<footer><span>0 %</span><span>50 %</span><span>100 %</span></footer></div>"
    ).format(rows)


if __name__ == "__main__":
    sys.exit(main())
