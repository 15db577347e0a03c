"""Before training: does reinforcement learning have something to work with on these data?

    python -m eval.perplexity --source coco --path instances_val2017.json   what the data say
    python -m eval.perplexity --run RUN [--steps 5]                          and what the base model does with them
    python -m eval.perplexity --samples eval/before/geometry3k/samples.jsonl

Two measures. The *perceptual perplexity* of a data set is a property of its truths alone: in how many ways
predictions could be matched with what is to be found, n! for n things that are to be counted or detected, 1 where
there is one thing or one text. The *signal* is a property of a model on the data: whether several answers to one
prompt earn different rewards, without which a method that compares answers within a group, such as GRPO, has no
gradient. The thresholds of the verdict are advice, from how that method works, not laws.

Source of the first: Yu et al., "Perception-R1: Pioneering Perception Policy with Reinforcement Learning", 2025,
appendix A.2, with the means 1 (grounding), 1 (OCR), 229,202 (counting) and 3.47e83 (detection) for its training
data. Those data decide the numbers: a mean of factorials belongs to the largest counts. Counts that are uniform from
2 to 10 give 448,657, and one image of 63 things among 5,700 others gives 3.47e83.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.record import Row, json_lines, number
from eval.significance import Interval, bootstrap_mean, wilson
from orchestrator import run_directory
from orchestrator.errors import InputError, NotFound, OrchestratorError, Problem, all_at_once

SCHEMA = 1
STEPS = 5
MATCHED = ("counting", "detection")
"""Kinds whose truth is a set, whose members can be matched in any order."""
MEANT = {"grounding", "ocr", *MATCHED}
"""Kinds that the measure was made for."""
KEPT = ("step", "id", "sample", "kind", "target", "answer", "total", "correct", "rewards", "parts")
FORM = ("format", "repetition")
"""Reward parts that are about how an answer is written."""
TOTAL, CORRECT = "total", "correct"

# Advice. GRPO's advantage is 0 in a flat group, so this share of what is sampled is thrown away.
FLAT_MUCH, FLAT_MOST = 0.5, 0.9
# Of the range of rewards. With less, the best of a group is hardly better than the rest.
HEADROOM_LITTLE = 0.05
GROUPS_FEW = 30


@dataclass(frozen=True, kw_only=True)
class Matchings:
    """Perceptual perplexity of a data set.

    Attributes:
        n: Problems.
        log10_mean: Logarithm of the mean number of matchings, the paper's measure.
        mean: The mean itself; None where it is too large for a number of the machine.
        mean_log10: Mean of the logarithms: what a typical problem is like.
        most: The largest number of things on one image.
        share_of_most: Which part of the mean the problems with most things make up.
        things: How many problems have how many things.
        kinds: How many problems are of which kind.
    """

    n: int
    log10_mean: float
    mean: float | None
    mean_log10: float
    most: int
    share_of_most: float
    things: Mapping[int, int]
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a reward says about answers to the same prompt.

    Attributes:
        reward: Which reward: ``total``, ``correct`` or a part.
        groups: Prompts with at least two rewarded answers.
        answers: Those answers.
        mean: Mean reward, over groups.
        spread: Mean standard deviation within a group.
        flat: Share of groups in which all answers earn the same.
        flat_low: Share of groups in which all earn the lowest reward there is: too hard.
        flat_high: Share of groups in which all earn the highest: too easy.
        headroom: Mean of the best answer's reward less the group's mean.
        scale: Highest less lowest reward among all answers.
    """

    reward: str
    groups: int
    answers: int
    mean: Interval
    spread: float
    flat: Interval
    flat_low: float
    flat_high: float
    headroom: Interval
    scale: float


Group = Sequence[float]


def things(kind: str, target: Mapping[str, Any] | None, answer: str = "") -> int:
    """Return of how many things the order is open: 1 for one box or one text.

    Args:
        kind: The problem's kind.
        target: Its truth in numbers, as JSON.
        answer: Its truth as a text; a count is read from it where there is no target.

    Raises:
        ValueError: It is a set of things, and nothing says how many.
    """
    if kind not in MATCHED:
        return 1
    if target is not None:
        from eval.target import Target

        return Target.from_json(target).number
    if kind == "counting" and answer.strip().isdecimal():
        return int(answer)
    raise ValueError(f"a problem of the kind {kind} has neither target nor count; its answer is {answer!r:.60}")


def matchings(problems: Iterable[tuple[str, int]]) -> Matchings:
    """Return the perceptual perplexity of problems, given as kind and number of things.

    Factorials are added as integers, so that no count is too large.

    Raises:
        ValueError: There are no problems, or a negative number of things.

    >>> found = matchings([("counting", n) for n in range(2, 11)])
    >>> round(found.mean), round(found.log10_mean, 3)
    (448657, 5.652)
    """
    listed = list(problems)
    if not listed:
        raise ValueError("perceptual perplexity: there are no problems.")
    counts = Counter(n for _, n in listed)
    total = sum(math.factorial(n) * times for n, times in counts.items())
    most = max(counts)
    log10_mean = math.log10(total) - math.log10(len(listed))
    return Matchings(
        n=len(listed),
        log10_mean=log10_mean,
        mean=total / len(listed) if log10_mean < sys.float_info.max_10_exp else None,
        mean_log10=math.fsum(math.log10(math.factorial(n)) * times for n, times in counts.items()) / len(listed),
        most=most,
        share_of_most=math.factorial(most) * counts[most] / total,
        things=dict(sorted(counts.items())),
        kinds=dict(Counter(kind for kind, _ in listed)),
    )


def signal(reward: str, groups: Iterable[Group]) -> Signal | None:
    """Return what one reward says within groups; None if no prompt has two rewarded answers.

    Missing rewards (NaN) are left out.
    """
    known = [[value for value in group if not math.isnan(value)] for group in groups]
    valid = [group for group in known if len(group) > 1]
    if not valid:
        return None
    low, high = min(map(min, valid)), max(map(max, valid))
    flat = [group[0] for group in valid if min(group) == max(group)]
    means = [math.fsum(group) / len(group) for group in valid]
    return Signal(
        reward=reward,
        groups=len(valid),
        answers=sum(map(len, valid)),
        mean=bootstrap_mean(means),
        spread=math.fsum(map(_deviation, valid)) / len(valid),
        flat=wilson(len(flat), len(valid)),
        flat_low=sum(value == low for value in flat) / len(valid),
        flat_high=sum(value == high for value in flat) / len(valid),
        headroom=bootstrap_mean([max(group) - mean for group, mean in zip(valid, means, strict=True)]),
        scale=high - low,
    )


def verdict(signals: Sequence[Signal]) -> list[str]:
    """Return in plain words whether training has something to work with; the first signal is what is optimised."""
    main = signals[0]
    sentences = [_differing(main)]
    if main.scale > 0:
        sentences += _hardness(main)
        share = main.headroom.estimate / main.scale
        little = " That is little: the best answers are hardly better than the rest." if share < HEADROOM_LITTLE else ""
        sentences.append(f"The best answer of a group earns {main.headroom.estimate:.3f} more than its mean.{little}")
    sentences += _only_form(main, signals[1:])
    if main.groups < GROUPS_FEW:
        sentences.append(
            f"These are {main.groups} groups; the flat share could be anything from {main.flat.low:.0%} to "
            f"{main.flat.high:.0%}. Sample at least {GROUPS_FEW} prompts before you rely on it."
        )
    return sentences


def of_data(examples: Iterable[Any]) -> Matchings:
    """Return the perceptual perplexity of ``jobs.data.Example`` objects.

    Raises:
        InputError: There are none, or some say nothing of how many things they have; the first are named.
    """
    rows = (
        {"id": e.id, "kind": e.kind, "answer": e.answer, "target": None if e.target is None else e.target.to_json()}
        for e in examples
    )
    return of_rows(rows)


def of_rows(rows: Iterable[Row]) -> Matchings:
    """Return the perceptual perplexity of the problems in a log; a problem counts once, however often answered.

    Raises:
        InputError: As in ``of_data``.
    """
    problems: dict[str, tuple[str, int]] = {}
    faults: dict[str, str] = {}
    for row in rows:
        key = str(row.get("id", len(problems)))
        if key in problems:
            continue
        kind = str(row.get("kind") or "math")
        try:
            problems[key] = (kind, things(kind, row.get("target"), str(row.get("answer", ""))))
        except ValueError as error:
            faults[key] = str(error)
    if faults:
        first, why = next(iter(faults.items()))
        raise InputError(f"{first}: {why}. So it is with {len(faults)} problems; convert the data with their targets.")
    if not problems:
        raise InputError("perceptual perplexity: there are no problems. Name a file that has some.")
    return matchings(problems.values())


def of_rollouts(rows: Iterable[Row], steps: int = STEPS) -> list[Signal]:
    """Return the signals of a training's first steps, the total reward first.

    Only the first step is the base model's; the following ones make the groups more and are close to it. What a
    restarted trainer sampled again counts as it was sampled last.
    """
    latest = {(int(row.get("step", 0)), str(row.get("id")), int(row.get("sample") or 0)): row for row in rows}
    taken = set(sorted({step for step, _, _ in latest})[:steps])
    groups: dict[tuple[int, str], list[Row]] = {}
    for (step, problem, _), row in latest.items():
        if step in taken:
            groups.setdefault((step, problem), []).append(row)
    return _signals(groups.values(), TOTAL, "rewards")


def of_samples(rows: Iterable[Row]) -> list[Signal]:
    """Return the signals of an evaluation that answered problems several times, right or wrong first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get("id")), []).append(row)
    return _signals(groups.values(), CORRECT, "parts")


def _signals(groups: Iterable[Sequence[Row]], main: str, parts: str) -> list[Signal]:
    listed = list(groups)
    names = dict.fromkeys(name for group in listed for row in group for name in row.get(parts) or {})
    found = [signal(main, [[_main(row, main) for row in group] for group in listed])]
    found += [
        signal(name, [[number((row.get(parts) or {}).get(name)) for row in group] for group in listed])
        for name in names
    ]
    return [one for one in found if one is not None]


def _main(row: Row, name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, bool) else number(value)


def _deviation(values: Group) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _differing(main: Signal) -> str:
    flat = main.flat.estimate
    facts = f"In {1 - flat:.0%} of {main.groups} groups, answers to one prompt earn different rewards ({main.reward})."
    if main.scale == 0:
        return f"{facts} Every answer earns the same, so there is nothing to learn from: change the reward or the data."
    if flat > FLAT_MOST:
        return f"{facts} That is next to nothing to work with: change the data, the prompt or the reward first."
    if flat > FLAT_MUCH:
        return (
            f"{facts} There is something to work with, but most of what is sampled will be thrown away: leave out "
            "prompts that are always flat, or sample more answers to each."
        )
    return f"{facts} There is something to work with."


def _hardness(main: Signal) -> list[str]:
    sentences = []
    if main.flat_low > FLAT_MUCH / 2:
        sentences.append(
            f"In {main.flat_low:.0%} of the groups no answer earns more than the least: too hard for now. "
            "A warm start, easier prompts or a reward with partial credit help."
        )
    if main.flat_high > FLAT_MUCH / 2:
        sentences.append(
            f"In {main.flat_high:.0%} of the groups every answer earns the most: too easy, leave them out."
        )
    return sentences


def _only_form(main: Signal, parts: Sequence[Signal]) -> list[str]:
    """Return a warning if answers differ in how they are written and not in what they say."""
    content = [part for part in parts if part.reward not in (*FORM, "accuracy" if main.reward == CORRECT else "")]
    if main.flat.estimate > FLAT_MOST or not content or any(part.flat.estimate <= FLAT_MOST for part in content):
        return []
    names = ", ".join(part.reward for part in content)
    return [f"The difference is in form alone; within groups there is hardly any in: {names}."]


def _read(path: Path) -> list[Row]:
    """Return what is needed of a log, which is little of it: most are prompts and responses."""
    rows: list[Row] = [{key: row[key] for key in KEPT if key in row} for _, row in json_lines(path)]
    if not rows:
        raise NotFound(f"{path}: has no rows. It is a run's rollouts.jsonl, or an evaluation's samples.jsonl.")
    return rows


def _examples(given: argparse.Namespace) -> Matchings:
    # Here and not above: all else must work where the sources' readers cannot be imported.
    from pydantic import ValidationError

    from jobs import data
    from jobs.data.settings import Data
    from orchestrator import section

    if given.path is None:
        raise InputError("--path: is missing. Say which file --source reads.")
    written = {"source": given.source, "path": given.path} | dict(map(_option, given.option))
    try:
        wanted = Data.model_validate(written)
    except ValidationError as error:
        faults = section.faults(error, Data, written)
        problems = [Problem(place=".".join(map(str, one.path)), fact=one.fact, way_out=one.way_out) for one in faults]
        raise all_at_once("--option", problems) from None
    return of_data(data.read(wanted))


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--option: {text!r} is not KEY=VALUE, for example images=data/coco/val2017.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _number(value: float | None, log10: float) -> str:
    if value is not None and value < 1e6:
        return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
    exponent = math.floor(log10)
    return f"{10 ** (log10 - exponent):.2f}e{exponent}"


def _described(found: Matchings) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    typical = 10**found.mean_log10 if found.mean_log10 < sys.float_info.max_10_exp else None
    lines = [
        f"Problems                      {found.n} ({kinds})",
        f"Perceptual perplexity         {_number(found.mean, found.log10_mean)} (mean number of matchings; "
        f"its logarithm {found.log10_mean:.2f})",
        f"Typical number of matchings   {_number(typical, found.mean_log10)} (geometric mean)",
        f"Most things on one image      {found.most}, {found.share_of_most:.0%} of the mean",
    ]
    return [*lines, _meaning(found)]


def _meaning(found: Matchings) -> str:
    if not found.kinds.keys() & MEANT:
        return "An answer in words is one truth, so this says nothing of such problems. Look at a model's answers."
    if found.log10_mean == 0:
        return (
            "Every problem has one truth. In the paper, reinforcement learning was about one point ahead of supervised "
            "training on such data (RefCOCO 89.1 and 88.2, OCR 98.2 and 97.2)."
        )
    return (
        "Truths are sets without an order. In the paper, reinforcement learning was far ahead of supervised training "
        "on such data (counting 78.1 and 58.0, detection 31.9 and 25.9)."
    )


def _table(signals: Sequence[Signal]) -> list[str]:
    header = f"{'reward':<20}{'groups':>8}{'mean':>9}{'spread':>9}{'flat':>7}{'low':>7}{'high':>7}{'best-mean':>11}"
    return [header] + [
        f"{one.reward:<20}{one.groups:>8}{one.mean.estimate:>9.3f}{one.spread:>9.3f}{one.flat.estimate:>7.0%}"
        f"{one.flat_low:>7.0%}{one.flat_high:>7.0%}{one.headroom.estimate:>11.3f}"
        for one in signals
    ]


def look(given: argparse.Namespace) -> tuple[Matchings, list[Signal]]:
    """Return what the arguments ask for: matchings, and signals if there are answers.

    Raises:
        NotFound: There is no such run or file, or it is empty.
        InputError: The arguments or the data cannot be used.
    """
    if given.source is not None:
        found = _examples(given)
        return found, []
    if given.run is not None:
        rows = _read(run_directory.find(given.run).rollouts)
        return of_rows(rows), of_rollouts(rows, given.steps)
    rows = _read(Path(given.samples))
    return of_rows(rows), of_samples(rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.perplexity", description="Say before training whether RL has something to work with."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", metavar="NAME", help="a data source; needs --path")
    what.add_argument("--run", metavar="RUN", help="a run: its rollouts")
    what.add_argument("--samples", metavar="FILE", help="an evaluation's samples.jsonl with several answers a problem")
    parser.add_argument("--path", metavar="FILE", help="what --source reads")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the source, such as images=FOLDER"
    )
    parser.add_argument("--steps", type=int, default=STEPS, metavar="K", help=f"first steps of a run; {STEPS}")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        found, signals = look(given)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    words = verdict(signals) if signals else []
    if given.as_json:
        of = {"matchings": asdict(found), "signals": [asdict(one) for one in signals], "verdict": words}
        print(json.dumps({"schema": SCHEMA} | of, indent=2, allow_nan=False))
        return 0
    print("\n".join(_described(found)))
    if signals:
        print("\n".join(["", *_table(signals), "", *words]))
    elif given.source is None:
        print("No prompt has two rewarded answers, so nothing can be said of the model. Sample each several times.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
