"""Training data in parts, from easy to hard, by what a model earned on it: a curriculum.

PR1 trains detection so: rewards of sampled responses, offline, sort the images, and training goes from
those that earn much to those that earn little, with more samples for the harder ones. The code of it is
not published; here a part is as large as any other, give or take one.

Source:
    PR1, arXiv 2504.07954, section 4.3.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data import Example, canonical, rows
from jobs.data.convert import sha256_of
from jobs.data.rows import Row
from orchestrator.errors import InputError, NotFound, Problem, all_at_once, nearest
from orchestrator.files import write_json

TOTAL = "total"


@dataclass(frozen=True, kw_only=True)
class Rated:
    """What was earned.

    Attributes:
        means: Mean reward, by id of the example.
        samples: Responses behind each mean.
        missing: Responses whose reward was not found out; they count nowhere.
    """

    means: dict[str, float]
    samples: dict[str, int]
    missing: int


def ratings(path: Path, by: str) -> Rated:
    """Return the mean reward of every example of a rollouts log.

    Args:
        path: ``rollouts.jsonl``, of training or of offline sampling.
        by: The name of a reward, or ``total``.

    Raises:
        NotFound: There is no such file.
        InputError: Lines are no rollouts, or none has that reward.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such rollouts log. A run has it as rollouts.jsonl in its folder.")
    earned: dict[str, list[float]] = defaultdict(list)
    problems: list[Problem] = []
    known: set[str] = {TOTAL}
    missing = 0
    for row in rows.read(path, path.parent):
        rollout = row if isinstance(row, Problem) else _rollout(row)
        if isinstance(rollout, Problem):
            problems.append(rollout)
            continue
        name, rewards = rollout
        known |= set(rewards)
        value = rewards.get(by)
        if by in rewards and value is not None and math.isfinite(value):
            earned[name].append(value)
        else:
            missing += 1
    if problems:
        raise all_at_once(str(path), problems)
    if by not in known or not earned:
        raise InputError(f"--by: No rollout of {path} has the reward {by!r}. {nearest(by, known, 'rewards')}")
    means = {name: math.fsum(values) / len(values) for name, values in earned.items()}
    return Rated(means=means, samples={name: len(values) for name, values in earned.items()}, missing=missing)


def _rollout(row: Row) -> tuple[str, dict[str, float | None]] | Problem:
    name, rewards = row.values.get("id"), row.values.get("rewards")
    given = {**rewards, TOTAL: row.values.get(TOTAL)} if isinstance(rewards, dict) else {}
    numbers = all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in given.values()
    )
    if not isinstance(name, str) or not isinstance(rewards, dict) or not numbers:
        return Problem(place=row.place, fact="A rollout has 'id', 'rewards' by name and 'total'.")
    return name, given


def split(
    examples: Sequence[Example], means: dict[str, float], parts: int
) -> tuple[list[list[Example]], list[Example]]:
    """Return the parts from easy to hard, and the examples without rollouts, which are in none.

    Ties are broken by id, so that the same rollouts make the same parts whatever the order of rows.

    Raises:
        InputError: There are fewer rated examples than parts.
    """
    rated = sorted((each for each in examples if each.id in means), key=lambda each: (-means[each.id], each.id))
    if len(rated) < parts:
        raise InputError(f"--parts: {parts} parts cannot be made of {len(rated)} examples with rollouts.")
    bounds = [round(len(rated) * part / parts) for part in range(parts + 1)]
    unrated = [each for each in examples if each.id not in means]
    return [rated[start:end] for start, end in itertools.pairwise(bounds)], unrated


def write(folder: Path, examples: Sequence[Example], rated: Rated, by: str, parts: int) -> dict[str, Any]:
    """Write ``part-1.parquet``, the easiest, and the others, and ``partition.json`` about them; return what it says."""
    divided, unrated = split(examples, rated.means, parts)
    folder.mkdir(parents=True, exist_ok=True)
    about = []
    for number, part in enumerate(divided, 1):
        file = folder / f"part-{number}.parquet"
        canonical.write(file, part)
        earned = [rated.means[each.id] for each in part]
        about.append(
            {
                "file": file.name,
                "sha256": sha256_of(file),
                "examples": len(part),
                "highest": max(earned),
                "lowest": min(earned),
                "ids": [each.id for each in part],
            }
        )
    unknown = sorted(set(rated.means) - {each.id for each in examples})
    content = {
        "schema": 1,
        "by": by,
        "parts": about,
        "without_rollouts": [{"id": each.id, "place": each.place} for each in unrated],
        "rollouts_of_other_examples": unknown,
        "rollouts_without_reward": rated.missing,
        "rewards": {name: json.loads(f"{rated.means[name]:.12g}") for name in sorted(rated.means)},
        "samples": {name: rated.samples[name] for name in sorted(rated.samples)},
    }
    write_json(folder / "partition.json", content, mode=0o644)
    return content
