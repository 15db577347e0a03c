"""Whether a file of data is fit to train on: rows, images, answers, repetitions, overlap with a test set."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jobs import data
from jobs.data import Example, readable
from jobs.data.bar import bar
from jobs.data.gather import BadRows
from jobs.data.looks import Look, looks, near
from jobs.data.settings import Data

What = Literal["row", "image", "answer", "repeated", "overlap"]
SHOWN = 20
"""Findings of one sort that the text lists; JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        what: Its sort.
        place: File and line.
        fact: As a sentence.
        id: The example's; empty if it could not be read.
    """

    what: What
    place: str
    fact: str
    id: str = ""


@dataclass(kw_only=True)
class Report:
    """What was found out about a file.

    Attributes:
        source: How it was read.
        path: The file.
        examples: Rows that can be used.
        kinds: How many of each kind.
        images: Different images.
        forms: How many of each encoding.
        sides_px: Shortest and longest side of all.
        findings: What is wrong. None is the aim.
        notes: What is worth knowing, and may be meant.
        seconds: How long images and answers took.
    """

    source: str
    path: str
    examples: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    images: int = 0
    forms: dict[str, int] = field(default_factory=dict)
    sides_px: tuple[int, int] | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {"schema": 1, **asdict(self), "good": not self.findings}


def check(wanted: Data, against: Data | None = None, processes: int | None = None) -> Report:
    """Return what is wrong with a file, and whether its images are in another.

    Args:
        wanted: The file.
        against: Another, such as the test set.
        processes: That decode images; None takes all cores.

    Raises:
        InputError: The file as a whole, or any row of ``against``, cannot be read.
        NotFound: There is no such file.
    """
    report = Report(source=wanted.source, path=wanted.path)
    began = time.monotonic()
    examples = _read(wanted, report)
    report.seconds["reading"] = round(time.monotonic() - began, 3)
    report.examples = len(examples)
    report.kinds = dict(Counter(example.kind for example in examples))
    seen = _images(examples, report, processes)
    _repeated(examples, report)
    _answers(examples, report)
    if against is not None:
        _overlap(examples, seen, against, report, processes)
    _empty(examples, report)
    return report


def _read(wanted: Data, report: Report) -> list[Example]:
    try:
        return data.read(wanted)
    except BadRows as error:
        report.findings += [Finding(what="row", place=bad.place, fact=bad.fact) for bad in error.problems]
        return error.examples


def _seen(examples: Sequence[Example], processes: int | None) -> dict[bytes, Look]:
    different = list(dict.fromkeys(image for example in examples for image in example.images))
    with bar("decoding", len(different), "images") as advance:
        return dict(zip(different, looks(different, advance, processes), strict=True))


def _images(examples: Sequence[Example], report: Report, processes: int | None) -> dict[bytes, Look]:
    began = time.monotonic()
    seen = _seen(examples, processes)
    report.seconds["images"] = round(time.monotonic() - began, 3)
    good = [look for look in seen.values() if not look.fault]
    sides = [side for look in good for side in (look.width_px, look.height_px)]
    report.images = len(seen)
    report.forms = dict(Counter(look.form for look in good))
    report.sides_px = (min(sides), max(sides)) if sides else None
    for example in examples:
        faults = [look.fault for look in (seen[image] for image in example.images) if look.fault]
        report.findings += [
            Finding(what="image", place=example.place, id=example.id, fact=f"An image cannot be decoded: {fault}.")
            for fault in faults
        ]
    turned = sum(look.turned for look in good)
    if turned:
        report.notes.append(f"{turned} image(s) are marked to be turned (EXIF). Models see them as they are stored.")
    alike = _groups((look.alike, look.sha256) for look in good if look.alike)
    if alike:
        report.notes.append(f"{sum(map(len, alike))} images look like another of this file, in {len(alike)} groups.")
    return seen


def _groups(pairs: Any) -> list[list[str]]:
    """Return the second of each pair, of those that share the first with another."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _repeated(examples: Sequence[Example], report: Report) -> None:
    """Find problems that are there twice: the same images and the same question."""
    first: dict[tuple[str, tuple[bytes, ...]], Example] = {}
    for example in examples:
        earlier = first.setdefault((example.problem, example.images), example)
        if earlier is not example:
            same = (
                "with the same answer"
                if earlier.answer == example.answer
                else f"with the answer {earlier.answer!r:.80}"
            )
            fact = f"The same images and question are in {earlier.place} ({earlier.id}), {same}."
            report.findings.append(Finding(what="repeated", place=example.place, id=example.id, fact=fact))


def _answers(examples: Sequence[Example], report: Report) -> None:
    began = time.monotonic()
    with bar("reading answers", len(examples), "answers") as advance:
        faults = readable.faults(examples, advance)
    report.seconds["answers"] = round(time.monotonic() - began, 3)
    report.findings += [
        Finding(what="answer", place=example.place, id=example.id, fact=faults[example.id])
        for example in examples
        if example.id in faults
    ]


def _overlap(
    examples: Sequence[Example], seen: dict[bytes, Look], against: Data, report: Report, processes: int | None
) -> None:
    """Find images that are in the other file too, byte for byte; those that only look alike are a note."""
    others = data.read(against)
    known = _seen(others, processes)
    owners = {known[image].sha256: other for other in others for image in other.images}
    likenesses = [look.alike for look in known.values() if look.alike]
    fingerprints = list(dict.fromkeys(look.alike for look in seen.values() if look.alike))
    like = {one for one, is_near in zip(fingerprints, near(fingerprints, likenesses), strict=True) if is_near}
    alike = 0
    for example in examples:
        found = [seen[image] for image in example.images]
        shared = next((owners[look.sha256] for look in found if look.sha256 in owners), None)
        if shared is not None:
            fact = f"An image is in {against.path} too: {shared.place} ({shared.id})."
            report.findings.append(Finding(what="overlap", place=example.place, id=example.id, fact=fact))
        elif any(look.alike in like for look in found):
            alike += 1
    if alike:
        report.notes.append(f"{alike} more problem(s) have an image that looks like one of {against.path}.")


def _empty(examples: Sequence[Example], report: Report) -> None:
    bare = sum(
        example.kind == "detection" and example.target is not None and not example.target.boxes for example in examples
    )
    if bare:
        report.notes.append(f"{bare} image(s) have nothing to detect.")
    shared = len(examples) - len({example.images for example in examples})
    if shared:
        report.notes.append(f"{shared} problem(s) share their images with an earlier one.")


def text(report: Report) -> list[str]:
    """Return the lines for a person."""
    lines = [f"{report.source} {report.path}: {report.examples} usable row(s) {_counts(report.kinds)}"]
    size = f", sides {report.sides_px[0]} to {report.sides_px[1]} px" if report.sides_px else ""
    lines.append(f"images: {report.images} different {_counts(report.forms)}{size}")
    for what in dict.fromkeys(finding.what for finding in report.findings):
        of_sort = [finding for finding in report.findings if finding.what == what]
        lines.append(f"{what}: {len(of_sort)} problem(s).")
        lines += [f"  {found.place}: {found.fact}" for found in of_sort[:SHOWN]]
        if len(of_sort) > SHOWN:
            lines.append(f"  and {len(of_sort) - SHOWN} more; --json lists all.")
    lines += [f"note: {note}" for note in report.notes]
    lines.append("took: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in report.seconds.items()))
    lines.append("good" if not report.findings else f"{len(report.findings)} problem(s)")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return f"({', '.join(f'{number} {name}' for name, number in sorted(counts.items()))})" if counts else ""
