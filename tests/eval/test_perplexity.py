from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from eval import perplexity
from eval.perplexity import Signal, matchings, of_rollouts, of_rows, of_samples, signal, things, verdict
from jobs.data import synthetic
from orchestrator.errors import InputError
from tests.eval.evaluated_runs import answer
from tests.eval.fake_run import make, write_lines

SPACE = {"system": "pixel", "width_px": 64, "height_px": 64}


def target(boxes: int = 0, **more: Any) -> dict[str, Any]:
    return {"space": SPACE, "boxes": [[0, 0, k + 1, 1] for k in range(boxes)], "labels": [], "points": []} | more


@pytest.mark.parametrize(
    ("kind", "of", "text", "expected"),
    [
        pytest.param("grounding", target(1), "[0, 0, 1, 1]", 1, id="one box"),
        pytest.param("ocr", None, "a page of 5 words", 1, id="one text"),
        pytest.param("math", None, "7", 1, id="one number"),
        pytest.param("counting", target(points=[[1, 1], [2, 2], [3, 3]]), "3", 3, id="points"),
        pytest.param("counting", target(count=4), "4", 4, id="a count"),
        pytest.param("counting", None, "6", 6, id="a count in words alone"),
        pytest.param("detection", target(5), "[]", 5, id="boxes"),
        pytest.param("detection", target(0), "[]", 0, id="nothing to be found"),
    ],
)
def test_how_many_things_can_be_matched_in_any_order(
    kind: str, of: dict[str, Any] | None, text: str, expected: int
) -> None:
    assert things(kind, of, text) == expected


def test_a_set_of_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="of the kind detection has neither target nor count"):
        things("detection", None, "[]")


def test_the_mean_is_of_factorials() -> None:
    found = matchings([("counting", 0), ("counting", 1), ("counting", 3), ("counting", 4)])

    assert found.mean == (1 + 1 + 6 + 24) / 4
    assert found.log10_mean == pytest.approx(math.log10(8))
    assert found.mean_log10 == pytest.approx((math.log10(6) + math.log10(24)) / 4)
    assert (found.most, found.share_of_most) == (4, 24 / 32)
    assert found.things == {0: 1, 1: 1, 3: 1, 4: 1}


def test_counts_that_no_float_can_hold_have_a_logarithm() -> None:
    found = matchings([("detection", 500), ("detection", 2)])

    assert found.mean is None
    assert found.log10_mean == pytest.approx(math.lgamma(501) / math.log(10) - math.log10(2), rel=1e-12)


def test_the_papers_number_of_detection_is_one_crowded_image_among_thousands() -> None:
    found = matchings([("detection", 63), *[("detection", 7)] * 5_700])

    assert found.mean == pytest.approx(3.47e83, rel=0.01)
    assert found.share_of_most == pytest.approx(1.0)


def test_a_problem_counts_once_however_often_it_was_answered() -> None:
    rows = [{"id": "a", "kind": "counting", "target": target(2)}] * 3 + [{"id": "b", "kind": "grounding"}]

    found = of_rows(rows)

    assert (found.n, found.mean, found.kinds) == (2, 1.5, {"counting": 1, "grounding": 1})


def test_data_that_do_not_say_how_many_things_are_named() -> None:
    rows = [{"id": "a", "kind": "detection"}, {"id": "b", "kind": "counting", "answer": "many"}]

    with pytest.raises(InputError, match=r"^a: a problem of the kind detection .* So it is with 2 problems"):
        of_rows(rows)


def test_a_signal_is_what_differs_within_groups() -> None:
    found = signal("total", [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5]])

    assert found is not None
    assert (found.groups, found.answers) == (4, 11)
    assert found.flat.estimate == 0.75
    assert (found.flat_low, found.flat_high) == (0.25, 0.25)
    assert found.spread == pytest.approx(0.5 / 4)
    assert found.headroom.estimate == pytest.approx(0.5 / 4)
    assert found.mean.estimate == pytest.approx((0.5 + 0 + 1 + 0.5) / 4)
    assert found.scale == 1.0


def test_missing_rewards_are_no_rewards() -> None:
    found = signal("total", [[math.nan, 1.0], [0.0, math.nan, 1.0]])

    assert found is not None
    assert (found.groups, found.answers) == (1, 2)
    assert signal("total", [[1.0], [math.nan, 0.0]]) is None


def rollout(step: int, name: str, sample: int, total: float | None, **rewards: float) -> dict[str, Any]:
    return {"step": step, "id": name, "sample": sample, "total": total, "rewards": rewards}


def test_only_the_first_steps_are_looked_at_and_a_problem_of_two_steps_is_two_groups() -> None:
    rows = [rollout(step, "a", k, float(k)) for step in (3, 4, 9) for k in (0, 1)]

    [found] = of_rollouts(rows, steps=2)

    assert (found.groups, found.answers) == (2, 4)


def test_what_was_sampled_again_counts_as_it_was_sampled_last() -> None:
    rows = [rollout(1, "a", 0, 0.0), rollout(1, "a", 1, 1.0), rollout(1, "a", 1, 0.0)]

    [found] = of_rollouts(rows)

    assert found.flat.estimate == 1.0


def test_every_part_has_a_signal_of_its_own() -> None:
    rows = [rollout(1, "a", k, k / 10, accuracy=0.0, format=float(k)) for k in (0, 1)]

    assert [(one.reward, one.flat.estimate) for one in of_rollouts(rows)] == [
        ("total", 0.0),
        ("accuracy", 1.0),
        ("format", 0.0),
    ]


def test_samples_of_an_evaluation_have_right_and_wrong() -> None:
    rows = [answer("a", k > 0, sample=k) for k in range(4)] + [answer("b", True, sample=k) for k in range(4)]

    found = of_samples(rows)[0]

    assert (found.reward, found.flat.estimate, found.flat_high) == ("correct", 0.5, 0.5)
    assert found.headroom.estimate == pytest.approx(0.125)


def groups_of(flat: int, different: int, value: float = 0.0) -> Signal:
    found = signal("total", [[value, value]] * flat + [[0.0, 1.0]] * different)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("main", "said"),
    [
        pytest.param(groups_of(5, 95), "There is something to work with.", id="enough"),
        pytest.param(groups_of(70, 30), "most of what is sampled will be thrown away", id="some"),
        pytest.param(groups_of(95, 5), "next to nothing to work with", id="little"),
        pytest.param(groups_of(40, 0), "Every answer earns the same", id="nothing"),
        pytest.param(
            groups_of(70, 30), "70% of the groups no answer earns more than the least: too hard", id="too hard"
        ),
        pytest.param(groups_of(70, 30, 1.0), "70% of the groups every answer earns the most: too easy", id="too easy"),
        pytest.param(groups_of(95, 5), "That is little: the best answers are hardly better", id="no headroom"),
        pytest.param(
            groups_of(5, 5), "These are 10 groups; the flat share could be anything from 24% to 76%", id="few"
        ),
    ],
)
def test_the_verdict_is_in_plain_words(main: Signal, said: str) -> None:
    assert said in " ".join(verdict([main]))


def test_enough_signal_has_no_complaints() -> None:
    assert verdict([groups_of(5, 95)]) == [
        "In 95% of 100 groups, answers to one prompt earn different rewards (total). There is something to work with.",
        "The best answer of a group earns 0.475 more than its mean.",
    ]


def test_a_difference_in_form_alone_is_told() -> None:
    rows = [rollout(1, f"p{n}", k, k / 10, accuracy=0.0, format=float(k)) for n in range(40) for k in (0, 1)]

    assert "The difference is in form alone; within groups there is hardly any in: accuracy." in verdict(
        of_rollouts(rows)
    )


def test_the_command_reads_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", steps=4, problems=40)

    assert perplexity.main(["--run", str(run.path), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["matchings"]["mean"] == 1.0
    assert [one["reward"] for one in found["signals"]] == [
        "total",
        "accuracy",
        "format",
        "visual_perception",
        "repetition",
    ]
    assert found["verdict"][0].endswith("There is something to work with.")


def test_the_command_reads_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "samples.jsonl"
    write_lines(path, [answer("a", k > 0, sample=k, kind="counting", target=target(10)) for k in range(4)])

    assert perplexity.main(["--samples", str(path)]) == 0

    shown = capsys.readouterr().out
    assert "Perceptual perplexity         3.63e6" in shown
    assert "In 100% of 1 groups, answers to one prompt earn different rewards (correct)." in shown


def test_the_command_reads_a_data_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scenes.parquet"
    synthetic.write(path, synthetic.scenes("test", 3, seed=1))

    assert perplexity.main(["--source", "geo3k", "--path", str(path)]) == 0

    assert "An answer in words is one truth, so this says nothing of such problems." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["--samples", "none.jsonl"], 4, "none.jsonl: has no rows", id="no file"),
        pytest.param(["--source", "geo3k"], 2, "--path: is missing", id="no path"),
        pytest.param(["--source", "geo3", "--path", "x"], 2, "Did you mean 'geo3k'?", id="no such source"),
        pytest.param(["--source", "geo3k", "--path", "x", "--option", "tak=1"], 2, "Did you mean 'take'?", id="option"),
        pytest.param(["--source", "geo3k", "--path", "x", "--option", "take"], 2, "is not KEY=VALUE", id="no value"),
    ],
)
def test_wrong_input_ends_with_its_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perplexity.main(arguments) == code
    assert message in capsys.readouterr().err
