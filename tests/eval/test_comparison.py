from __future__ import annotations

import math
from typing import Any

import pytest

from eval.comparison import Comparison, Side, compare, correct, extracted
from eval.record import Row
from eval.significance import wilson
from tests.eval.evaluated_runs import answer, answers


def side(label: str, *runs: list[dict[str, Any]]) -> Side:
    found: list[dict[str, tuple[Row, ...]]] = []
    for rows in runs:
        of: dict[str, tuple[Row, ...]] = {}
        for row in rows:
            of[row["id"]] = (*of.get(row["id"], ()), row)
        found.append(of)
    return Side(label=label, task="t", runs=tuple(found))


def several(name: str, *correct: bool, **more: Any) -> list[dict[str, Any]]:
    return [answer(name, right, sample=k, **more) for k, right in enumerate(correct)]


def test_one_answer_each_is_compared_by_mcnemar() -> None:
    found = compare(side("before", answers("abz", "defghijklm")), side("after", answers("bdefghijklz", "am")))

    assert found.test is not None
    assert (found.test.b, found.test.c, found.method) == (1, 9, "McNemar exact")
    assert found.p == found.test.p == pytest.approx(22 / 1024)
    assert found.intervals == (wilson(3, 13), wilson(11, 13))
    assert found.difference.estimate == pytest.approx(8 / 13)


def test_several_answers_are_compared_by_flipping_signs_of_problems() -> None:
    before = [*several("a", True, False), *several("b", False, False), *several("c", False, False)]
    after = [*several("a", True, True), *several("b", True, False), *several("c", False, True)]

    found = compare(side("before", before), side("after", after))

    assert found.test is None
    assert (found.method, found.p) == ("sign flip", 0.25)  # three of three the same way: 2 / 2**3
    assert found.difference.estimate == pytest.approx(0.5)
    assert found.intervals[0].estimate == pytest.approx(1 / 6)
    assert "Sign-flip test over problems: accuracy changed by +0.500" in found.sentence


def test_pass_at_k_is_told_where_problems_were_answered_several_times() -> None:
    before = [*several("a", True, False, False, False), *several("b", False, False, False, False)]
    after = [*several("a", True, True, False, False), *several("b", True, False, False, False)]

    found = compare(side("before", before), side("after", after))

    assert [one.k for one in found.passes] == [1, 2, 4]
    assert [one.before.estimate for one in found.passes] == pytest.approx([1 / 8, 1 / 4, 1 / 2])
    assert [one.after.estimate for one in found.passes] == pytest.approx([3 / 8, (5 / 6 + 1 / 2) / 2, 1.0])
    assert found.passes[1].difference.estimate == pytest.approx(2 / 3 - 1 / 4)


def test_pass_at_k_is_of_one_model_and_not_of_several_seeds() -> None:
    before, after = side("before", answers("a", "b")), side("after", answers("a", "b"), answers("b", "a"))

    assert compare(before, after).passes == ()


def test_seeds_of_training_have_a_mean_and_a_spread() -> None:
    found = compare(side("before", answers("a", "bcd")), side("after", answers("ab", "cd"), answers("abc", "d")))

    assert found.over_seeds is not None
    assert found.over_seeds.after.values == (0.5, 0.75)
    assert found.over_seeds.after.mean == 0.625
    assert found.over_seeds.after.deviation == pytest.approx(0.25 / math.sqrt(2))
    assert found.over_seeds.difference.estimate == 0.375
    assert found.difference.estimate == 0.375


def test_seeds_of_sampling_in_one_file_are_told_apart() -> None:
    rows = [*several("a", True, seed=1), *several("a", False, seed=2), *several("b", True, seed=1)]
    rows += several("b", True, seed=2)

    found = compare(side("before", rows), side("after", rows))

    assert found.over_seeds is not None
    assert found.over_seeds.before.values == (1.0, 0.5)
    assert found.p == 1.0


def test_flipped_problems_are_listed_with_what_was_said() -> None:
    before = [answer("a", False, extracted="3"), answer("b", True), answer("c", True)]
    after = [answer("a", True, extracted="5"), answer("b", True), answer("c", False, extracted=None)]

    flips = compare(side("before", before), side("after", after)).flips

    assert [(flip.id, flip.gained, flip.said_before, flip.said_after) for flip in flips] == [
        ("a", True, ("3",), ("5",)),
        ("c", False, ("right",), (None,)),
    ]
    assert flips[0].answer == "truth of a"


def test_problems_that_changed_most_come_first() -> None:
    before = [*several("a", False, False), *several("b", False, False), *several("c", True, True)]
    after = [*several("a", True, False), *several("b", True, True), *several("c", True, True)]

    flips = compare(side("before", before), side("after", after)).flips

    assert [(flip.id, flip.after) for flip in flips] == [("b", 1.0), ("a", 0.5)]


def test_an_answer_that_could_not_be_checked_is_left_out_and_counted() -> None:
    found = compare(side("before", [*answers("a"), answer("b", None)]), side("after", answers("ab")))

    assert (found.unchecked, found.test and found.test.n) == (1, 1)


def test_different_problems_are_not_tested() -> None:
    found = compare(side("before", answers("ab")), side("after", answers("a")))

    assert (found.p, found.test, found.method) == (None, None, "")
    assert found.sentence.startswith("McNemar exact test: not yet")


def test_what_is_neither_right_nor_wrong_is_compared_by_its_main_part() -> None:
    def page(name: str, f1: float) -> dict[str, Any]:
        return answer(name, None, kind="ocr", parts={"edit_distance": 1 - f1, "f1": f1})

    before = [page(name, value) for name, value in zip("abcd", (0.5, 0.6, 0.7, 0.8), strict=True)]
    after = [page(name, value) for name, value in zip("abcd", (0.6, 0.8, 0.9, 0.9), strict=True)]

    found = compare(side("before", before), side("after", after))

    assert (found.measure, found.method) == ("f1", "sign flip")
    assert found.difference.estimate == pytest.approx(0.15)
    assert found.p == pytest.approx(2 / 16, abs=0.01)


def test_p_values_that_are_read_together_are_corrected_together() -> None:
    def result(b: int, c: int) -> Comparison:
        names = [chr(97 + k) for k in range(b + c)]
        before = [answer(name, k < b) for k, name in enumerate(names)]
        after = [answer(name, k >= b) for k, name in enumerate(names)]
        return compare(side("before", before), side("after", after))

    untested = compare(side("before", answers("a")), side("after", answers("b")))

    found = correct([result(2, 10), untested, result(0, 9), result(3, 3)])

    assert [one.corrected and round(one.corrected.holm, 6) for one in found] == [0.077148, None, 0.011719, 1.0]
    assert [one.corrected and round(one.corrected.benjamini_hochberg, 6) for one in found] == [
        0.057861,
        None,
        0.011719,
        1.0,
    ]
    assert found[0].corrected is not None
    assert found[0].corrected.family == 3


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"extracted": "5", "response": "<answer>6</answer>"}, "5", id="stored"),
        pytest.param({"extracted": None, "response": "<answer>6</answer>"}, None, id="stored as nothing"),
        pytest.param({"response": "x <answer>\n6\n</answer>"}, "6", id="an older evaluation"),
        pytest.param({"response": "6"}, None, id="without tags"),
    ],
)
def test_the_extracted_answer(row: dict[str, Any], expected: str | None) -> None:
    assert extracted(row) == expected
