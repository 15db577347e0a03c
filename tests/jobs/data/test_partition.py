"""Training data in parts by what was earned on it, from easy to hard."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import data
from jobs.data import Example, canonical, partition
from jobs.data.__main__ import main
from orchestrator.errors import InputError

from .pictures import json_lines, picture


def rollout(name: str, number: float | None, total: float | None = 0.5) -> dict[str, Any]:
    return {"step": 1, "id": name, "sample": 0, "rewards": {"number": number}, "total": total, "tokens": 7}


def problems(*names: str) -> list[Example]:
    return [Example(id=name, problem=f"<image>{name}", answer="1", images=(picture(),)) for name in names]


def write_both(folder: Path, rollouts: list[dict[str, Any]], *names: str) -> tuple[str, str]:
    canonical.write(folder / "train.parquet", problems(*names))
    return str(json_lines(folder / "rollouts.jsonl", *rollouts)), str(folder / "train.parquet")


def test_parts_go_from_easy_to_hard_by_the_mean_of_a_reward(tmp_path: Path) -> None:
    rollouts = [
        rollout("a", 0.2),
        rollout("a", 0.4),
        rollout("b", 1.0),
        rollout("c", 0.1),
        rollout("d", 0.9),
        rollout("d", None),
    ]
    log, train = write_both(tmp_path, rollouts, "a", "b", "c", "d", "e")

    assert (
        main(["partition", log, "examples", train, "--parts", "2", "--by", "number", "--out", str(tmp_path / "parts")])
        == 0
    )

    parts = [data.load("examples", tmp_path / "parts" / f"part-{number}.parquet") for number in (1, 2)]
    assert [[example.id for example in part] for part in parts] == [["b", "d"], ["a", "c"]]
    about = json.loads((tmp_path / "parts" / "partition.json").read_text())
    assert about["parts"][1]["highest"] == pytest.approx(0.3)
    assert about["without_rollouts"] == [{"id": "e", "place": "train.parquet, row 4"}]
    assert (about["rollouts_without_reward"], about["samples"]["d"]) == (1, 1)


def test_examples_without_rollouts_are_listed_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, train = write_both(tmp_path, [rollout("a", 1), rollout("b", 0), rollout("x", 0)], "a", "b", "c")

    main(["partition", log, "examples", train, "--parts", "2", "--out", str(tmp_path / "parts")])

    out = capsys.readouterr().out
    assert "train.parquet, row 2: 'c' has no rollouts and is in no part." in out
    assert "1 without rollouts, 1 rollouts' ids unknown here" in out


def test_the_order_of_the_log_changes_nothing(tmp_path: Path) -> None:
    names = [f"e{number}" for number in range(20)]
    rollouts = [rollout(name, round(random.Random(name).random(), 1)) for name in names for _ in range(3)]
    rated = partition.ratings(json_lines(tmp_path / "a.jsonl", *rollouts), "number")
    random.Random(1).shuffle(rollouts)
    again = partition.ratings(json_lines(tmp_path / "b.jsonl", *rollouts), "number")

    first = partition.write(tmp_path / "x", problems(*names), rated, "number", 3)
    second = partition.write(tmp_path / "y", problems(*reversed(names)), again, "number", 3)

    assert first["parts"] == second["parts"]


@given(earned=st.lists(st.floats(0, 1), min_size=2, max_size=40), parts=st.integers(2, 5))
def test_every_rated_example_is_in_one_part_and_no_part_is_easier_than_the_one_before(
    earned: list[float], parts: int
) -> None:
    examples = problems(*(f"{number}" for number in range(len(earned))))
    means = {f"{number}": value for number, value in enumerate(earned)}
    if len(earned) < parts:
        with pytest.raises(InputError, match="parts cannot be made of"):
            partition.split(examples, means, parts)
        return

    found, unrated = partition.split(examples, means, parts)

    assert sorted(each.id for part in found for each in part) == sorted(means)
    assert (unrated, max(map(len, found)) - min(map(len, found)) <= 1) == ([], True)
    assert all(
        min(means[each.id] for each in easier) >= max(means[each.id] for each in harder)
        for easier, harder in itertools.pairwise(found)
    )


def test_a_reward_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    log = json_lines(tmp_path / "a.jsonl", rollout("a", 1))

    with pytest.raises(InputError, match=r"has the reward 'numbr'\. Did you mean 'number'\?"):
        partition.ratings(log, "numbr")


def test_lines_that_are_no_rollouts_are_all_listed(tmp_path: Path) -> None:
    log = json_lines(tmp_path / "a.jsonl", rollout("a", 1), {"id": "b"}, {**rollout("c", 1), "total": "x"})

    with pytest.raises(InputError) as raised:
        partition.ratings(log, "number")

    assert "2 problems" in str(raised.value)
    assert "a.jsonl:2: A rollout has 'id', 'rewards' by name and 'total'." in str(raised.value)
