"""We-Math's scores over groups of problems."""

from __future__ import annotations

import pytest

from eval.wemath import Reading, Step, scores


def group(name: str, *steps: bool | None, whole: bool | None) -> list[Step]:
    """Return the answered problems of one group."""
    number = len(steps)
    found = [Step(group=name, steps=number, step=str(k), correct=right) for k, right in enumerate(steps, 1)]
    return [*found, Step(group=name, steps=number, step="multi", correct=whole)]


ONE_OF_EACH = [
    *group("a", True, True, whole=True),  # mastery in both readings
    *group("b", True, False, whole=True),  # mastery loosely, rote strictly
    *group("c", False, False, False, whole=True),  # rote in both readings
    *group("d", True, True, True, whole=False),  # inadequate generalisation
    *group("e", False, True, whole=False),  # insufficient knowledge
]


def test_one_group_of_each_fate() -> None:
    found = scores(ONE_OF_EACH)

    assert (found.groups, found.incomplete) == (5, 0)
    assert found.insufficient == pytest.approx(1 / 5)
    assert found.inadequate == pytest.approx(1 / 5)
    # (5 - IG / 2 - IK - RM) / 5 with RM = 2 and RM = 1.
    assert found.strict == Reading(score=1.5 / 5, mastery=1 / 5, rote=2 / 3)
    assert found.loose == Reading(score=2.5 / 5, mastery=2 / 5, rote=1 / 3)


def test_groups_of_two_and_three_steps_with_one_name_are_two_groups() -> None:
    assert scores([*group("a", True, True, whole=True), *group("a", True, True, True, whole=True)]).groups == 2


def test_a_group_that_was_not_answered_whole_counts_nowhere() -> None:
    found = scores(
        [
            *group("a", True, True, whole=True),
            *group("b", True, None, whole=True),
            *group("c", True, True, whole=True)[:2],
        ]
    )

    assert (found.groups, found.incomplete) == (1, 2)
    assert found.strict == Reading(score=1.0, mastery=1.0, rote=0.0)


def test_without_a_right_whole_there_is_no_rate_of_rote_memorisation() -> None:
    found = scores(group("a", True, True, whole=False))

    assert found.strict == Reading(score=0.5, mastery=0.0, rote=None)


def test_without_groups_there_are_no_scores() -> None:
    assert scores([]).to_json() == {
        "groups": 0,
        "incomplete": 0,
        "insufficient_knowledge": None,
        "inadequate_generalisation": None,
        **{
            f"{name}_{reading}": None
            for reading in ("strict", "loose")
            for name in ("score", "complete_mastery", "rote_memorisation")
        },
    }
