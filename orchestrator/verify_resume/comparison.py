"""What two runs of one recipe left behind, compared line by line and file by file. Knows files, not models.

Numbers are compared as they are written: JSON keeps every bit of a float, and a checkpoint's manifest has the
SHA-256 of every file. Where weights differ, the safetensors files themselves tell which tensor differs first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.files import read_json
from orchestrator.run_directory import RunDirectory
from orchestrator.verify_resume.promise import Promise

STEP = re.compile(r"step_(\d{8})")
STEPS = "steps, each once"
ORDER = ("step", "id", "sample")
RESPONSE = ("response", "tokens", "finish")
REWARDS = ("rewards", "total", "advantage")
TIMELESS = ("actor", "critic", "reward", "response_length")
"""Groups of metrics that do not depend on the clock."""
LONGEST_SHOWN = 100
HEADER_BYTES = 8
BLOCK_BYTES = 1 << 20

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where two runs differ in one respect.

    Attributes:
        step: At which step, from 1; what comes after the last step counts as a step of its own.
        what: The place and both values, a sentence.
    """

    step: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One respect in which two runs were compared.

    Attributes:
        name: Of the respect.
        straight: A digest, digests by file, or a number, of the undisturbed run.
        killed: The same of the other.
        difference: None if they are equal.
        promised: Whether they have to be.
    """

    name: str
    straight: Any
    killed: Any
    difference: Difference | None
    promised: bool = True

    @property
    def ok(self) -> bool:
        return self.difference is None or not self.promised


def compare(straight: RunDirectory, killed: RunDirectory, *, role: str, total: int, promise: Promise) -> list[Check]:
    """Return every respect in which the runs were compared.

    Args:
        straight: The undisturbed run.
        killed: The other.
        role: The training role.
        total: Steps that both should have made.
        promise: What has to be equal.
    """
    order, responses, rewards = rollouts(straight, killed, total=total, promise=promise)
    return [
        steps(straight, killed, total=total),
        order,
        responses,
        rewards,
        metrics(straight, killed, total=total, promised=promise.bits),
        files("weights", is_weights, straight, killed, total=total, promised=promise.bits),
        files("optimizer", is_optimizer, straight, killed, total=total, promised=promise.bits),
        verdicts(straight, killed, role=role, total=total),
    ]


# Records.


def steps(straight: RunDirectory, killed: RunDirectory, *, total: int) -> Check:
    """Check that each run has steps 1 to ``total``, each exactly once and in order."""
    found = [[int(line["step"]) for line in lines(run.metrics)] for run in (straight, killed)]
    difference = None
    for run, made in zip((straight, killed), found, strict=True):
        if made != list(range(1, total + 1)) and difference is None:
            difference = _wrong_steps(run.name, made, total)
    return Check(name=STEPS, straight=len(found[0]), killed=len(found[1]), difference=difference)


def _wrong_steps(name: str, made: Sequence[int], total: int) -> Difference:
    counted = Counter(made)
    for step in range(1, total + 1):
        if counted[step] != 1:
            times = f"{counted[step]} times" if counted[step] else "not at all"
            return Difference(step=step, what=f"metrics.jsonl of {name} has step {step} {times}.")
    extra = next((step for step in made if not 1 <= step <= total), None)
    what = "has its steps out of order" if extra is None else f"has step {extra}, and the run has {total} steps"
    return Difference(step=extra or 1, what=f"metrics.jsonl of {name} {what}.")


class _Respect:
    """Some fields of a file's lines: a digest of each side and the first difference."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._digests = (hashlib.sha256(), hashlib.sha256())
        self._difference: Difference | None = None

    def take(self, number: int, pair: Sequence[Line | None]) -> None:
        """Look at line ``number`` of both files; None stands for a file that has ended."""
        for digest, line in zip(self._digests, pair, strict=True):
            if line is not None:
                digest.update(_exact([line.get(field) for field in self._fields]) + b"\n")
        if self._difference is None:
            self._difference = _line_difference(number, pair, self._fields)

    def check(self, name: str, *, promised: bool) -> Check:
        straight, killed = (digest.hexdigest() for digest in self._digests)
        return Check(name=name, straight=straight, killed=killed, difference=self._difference, promised=promised)


def rollouts(straight: RunDirectory, killed: RunDirectory, *, total: int, promise: Promise) -> list[Check]:
    """Compare ``rollouts.jsonl``: order of the data, responses, rewards. What the judge took, in time, is left out."""
    order, response, rewards = _Respect(ORDER), _Respect(RESPONSE), _Respect(REWARDS)
    number = 0
    for number, pair in enumerate(itertools.zip_longest(lines(straight.rollouts), lines(killed.rollouts)), 1):
        for respect in (order, response, rewards):
            respect.take(number, pair)
    found = [
        order.check("data order", promised=promise.order),
        response.check("responses", promised=promise.bits),
        rewards.check("rewards", promised=promise.bits),
    ]
    return found if number else [_nothing(check, "rollouts.jsonl has no line", total) for check in found]


def metrics(straight: RunDirectory, killed: RunDirectory, *, total: int, promised: bool) -> Check:
    """Compare the numbers of every step that do not depend on the clock."""
    digests = (hashlib.sha256(), hashlib.sha256())
    difference = None
    for pair in itertools.zip_longest(lines(straight.metrics), lines(killed.metrics)):
        timeless = [None if line is None else _timeless(line) for line in pair]
        for digest, line in zip(digests, timeless, strict=True):
            digest.update(_exact(line) + b"\n")
        if difference is None and _exact(timeless[0]) != _exact(timeless[1]):
            difference = _metrics_difference(timeless, total)
    a, b = (digest.hexdigest() for digest in digests)
    return Check(name="metrics", straight=a, killed=b, difference=difference, promised=promised)


def verdicts(straight: RunDirectory, killed: RunDirectory, *, role: str, total: int) -> Check:
    """Check that no question was put to the judge again once its answer was known."""
    asked, repeated = judge_questions(straight, role), judge_questions(killed, role)
    again = repeated["questions"] - repeated["different"]
    difference = None
    if again:
        what = f"verdicts.jsonl of {killed.name} has {again} answer(s) to questions that it had an answer to."
        difference = Difference(step=total + 1, what=what)
    return Check(
        name="judge asked once", straight=asked["questions"], killed=repeated["questions"], difference=difference
    )


def judge_questions(run: RunDirectory, role: str) -> dict[str, int]:
    """Return how many answers of the judge a run has paid for, and to how many different questions."""
    keys = [line["key"] for line in lines(run.role(role) / "verdicts.jsonl")]
    return {"questions": len(keys), "different": len(set(keys))}


def judge_calls(run: RunDirectory) -> dict[str, int]:
    """Return how many responses in ``rollouts.jsonl`` were judged, how, and at the cost of how many requests."""
    judged = [line["judge"] for line in lines(run.rollouts) if line.get("judge") is not None]
    return {
        "judged": len(judged),
        "from_cache": sum(bool(verdict["cached"]) for verdict in judged),
        "requests": sum(int(verdict["attempts"]) for verdict in judged),
        "missing": sum(bool(verdict["missing"]) for verdict in judged),
    }


def lines(path: Path) -> Iterator[Line]:
    """Yield the whole lines of a JSONL file; a file that is not there has none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _timeless(line: Line) -> Line:
    return {name: value for name, value in sorted(line.items()) if name.split("/")[0] in ("step", *TIMELESS)}


def _line_difference(number: int, pair: Sequence[Line | None], fields: Sequence[str]) -> Difference | None:
    a, b = pair
    if a is None or b is None:
        line = a or b
        assert line is not None
        who = "undisturbed" if a is None else "killed"
        what = f"rollouts.jsonl of the {who} run has {number - 1} lines, and the other has more."
        return Difference(step=int(line["step"]), what=what)
    for field in fields:
        if _exact(a.get(field)) != _exact(b.get(field)):
            place = f"rollouts.jsonl:{number} (step {a['step']}, {a['id']}, sample {a['sample']}): {field}"
            told = f"{place} is {_shown(a.get(field))} in the undisturbed run and {_shown(b.get(field))} in the killed."
            return Difference(step=int(a["step"]), what=f"{told}{_judge_said(a, b, field)}")
    return None


def _judge_said(a: Line, b: Line, field: str) -> str:
    """Return a sentence if the judge, not the trainer, is what answered differently."""
    replies = [(line.get("judge") or {}).get("reply") for line in (a, b)]
    if field not in REWARDS or a.get("response") != b.get("response") or replies[0] == replies[1]:
        return ""
    return (
        " The judge answered the same question differently; with --same-verdicts the killed run is given the answers "
        "of the other."
    )


def _metrics_difference(pair: Sequence[Line | None], total: int) -> Difference:
    a, b = pair
    if a is None or b is None:
        who = "undisturbed" if a is None else "killed"
        return Difference(step=total + 1, what=f"metrics.jsonl of the {who} run is shorter.")
    name = next(name for name in sorted(a.keys() | b.keys()) if _exact(a.get(name)) != _exact(b.get(name)))
    values = f"is {_shown(a.get(name))} in the undisturbed run and {_shown(b.get(name))} in the killed."
    return Difference(step=int(a["step"]), what=f"metrics.jsonl, step {a['step']}: {name} {values}")


# Checkpoints.


def is_weights(name: str) -> bool:
    """Return whether a file of a checkpoint holds weights."""
    return name.startswith(("model/", "adapter/")) and name.endswith(".safetensors")


def is_optimizer(name: str) -> bool:
    """Return whether a file of a checkpoint holds the optimiser's state."""
    return name.startswith("optimizer")


def files(
    name: str,
    wanted: Callable[[str], bool],
    straight: RunDirectory,
    killed: RunDirectory,
    *,
    total: int,
    promised: bool,
) -> Check:
    """Compare files of both checkpoints of the last step by the SHA-256 of their manifests."""
    folders = [final(run) for run in (straight, killed)]
    a, b = (_digests(folder, wanted) for folder in folders)
    check = Check(name=name, straight=a, killed=b, difference=None, promised=promised)
    if not a and not b:
        return _nothing(check, f"no checkpoint has a file of the {name}", total)
    what = _file_difference(folders, a, b)
    if what is None and [step_of(folder) for folder in folders] != [total, total]:
        what = f"the last checkpoints are of steps {step_of(folders[0])} and {step_of(folders[1])}, not {total}."
    return check if what is None else _but(check, Difference(step=total + 1, what=what))


def final(run: RunDirectory) -> Path | None:
    """Return the newest committed checkpoint; None if there is none."""
    committed = [path for path in run.checkpoints.glob("step_*/MANIFEST.json") if STEP.fullmatch(path.parent.name)]
    return max(committed).parent if committed else None


def step_of(checkpoint: Path | None) -> int:
    """Return the step of a checkpoint; 0 for none."""
    return int(checkpoint.name.removeprefix("step_")) if checkpoint is not None else 0


def _digests(folder: Path | None, wanted: Callable[[str], bool]) -> dict[str, str]:
    if folder is None:
        return {}
    manifest = read_json(folder / "MANIFEST.json")
    assert manifest is not None
    return {name: known["sha256"] for name, known in sorted(manifest["files"].items()) if wanted(name)}


def _file_difference(folders: Sequence[Path | None], a: dict[str, str], b: dict[str, str]) -> str | None:
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            who = "undisturbed" if name not in a else "killed"
            return f"{name} is missing in the last checkpoint of the {who} run."
        if a[name] != b[name]:
            assert folders[0] is not None
            assert folders[1] is not None
            return f"{name}: {tensor_difference(folders[0] / name, folders[1] / name)}"
    return None


def tensor_difference(a: Path, b: Path) -> str:
    """Return in words what differs between two files, for safetensors the first tensor; they are known to differ."""
    if not (a.is_file() and b.is_file() and a.suffix == b.suffix == ".safetensors"):
        return "its SHA-256 differs."
    tensors = [_tensors(path) for path in (a, b)]
    for name in sorted(tensors[0].keys() | tensors[1].keys()):
        if name not in tensors[0] or name not in tensors[1]:
            return f"tensor {name!r} is in one of the files only."
        found = [tensors[0][name], tensors[1][name]]
        if any(found[0][key] != found[1][key] for key in ("dtype", "shape")):
            return f"tensor {name!r} has another type or shape."
        if _content(a, found[0]["span"]) != _content(b, found[1]["span"]):
            return f"tensor {name!r} differs."
    return "all tensors are equal; the files' headers differ, or a file is not what its manifest says."


def _tensors(path: Path) -> dict[str, dict[str, Any]]:
    """Return type, shape and place in the file of every tensor."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(HEADER_BYTES), "little")
        header = json.loads(file.read(size))
    begin = HEADER_BYTES + size
    return {
        name: {"dtype": known["dtype"], "shape": known["shape"], "span": [begin + at for at in known["data_offsets"]]}
        for name, known in header.items()
        if name != "__metadata__"
    }


def _content(path: Path, span: Sequence[int]) -> bytes:
    """Return the SHA-256 of a part of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(span[0])
        left = span[1] - span[0]
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _nothing(check: Check, what: str, total: int) -> Check:
    """Return a check that failed because there was nothing to compare."""
    return _but(check, Difference(step=total + 1, what=f"{what}, so there was nothing to compare."))


def _but(check: Check, difference: Difference) -> Check:
    return Check(
        name=check.name,
        straight=check.straight,
        killed=check.killed,
        difference=difference,
        promised=check.promised,
    )


def _exact(value: Any) -> bytes:
    """Return a value in one form, so that equal text means equal bits: 0.0 and -0.0 differ."""
    return json.dumps(value, sort_keys=True).encode()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
