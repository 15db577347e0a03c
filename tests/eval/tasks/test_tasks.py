"""What every kind of task measures of one answer, and of all of them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import coco, tasks
from eval.target import Kind, Space, Target
from eval.tasks import AnyKind, Measured, Options, detection
from jobs.data import Example
from tests.eval.tasks.rows import row_of

PIXELS = Space(system="pixel", width_px=640, height_px=480)
DOG = (64.0, 48.0, 320.0, 240.0)


def problem(
    kind: Any, answer: str = "", *, name: str = "1", target: Target | None = None, meta: Mapping[str, Any] | None = None
) -> Example:
    return Example(id=name, problem="<image>", answer=answer, images=(b"",), kind=kind, target=target, meta=meta or {})


def measure(example: Example, response: str, options: Options | None = None) -> Measured:
    return measure_all([(example, response)], options)[0]


def measure_all(pairs: Sequence[tuple[Example, str]], options: Options | None = None) -> list[Measured]:
    """Return what is measured of every answer, by one measurement of any kinds."""

    async def main() -> list[Measured]:
        measurement = AnyKind(options or Options())
        try:
            return [await measurement.measure(example, response) for example, response in pairs]
        finally:
            await measurement.close()

    return asyncio.run(main())


def aggregate(pairs: Sequence[tuple[Example, str]], options: Options | None = None) -> dict[str, Any]:
    """Return what all answers say together, through rows as they are on disk."""
    found = measure_all(pairs, options)
    rows = [row_of(*pair, one) for pair, one in zip(pairs, found, strict=True)]
    result = AnyKind(options or Options()).aggregate(rows)
    json.dumps(result, allow_nan=False)
    return result


class FakeReader:
    """Finds the last word, and says what it was told to say."""

    def __init__(self, verdict: bool | None = True, *, away: bool = False) -> None:
        self.verdict, self.away = verdict, away
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []

    async def extract(self, response: str) -> str | None:
        return None if self.away else response.split()[-1]

    async def judge(self, answer: str, truth: str, choices: Sequence[str] = ()) -> bool | None:
        self.asked.append((answer, truth, tuple(choices)))
        return self.verdict

    async def close(self) -> None:
        """Nothing to close."""


def test_there_is_a_measurement_for_every_kind() -> None:
    assert set(tasks.KINDS) == set(get_args(Kind))


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no kind of problem 'maths'\. Known: math, choice, text"):
        tasks.build("maths", Options())


# Mathematics


@pytest.mark.slow
def test_a_formula_is_right_however_it_is_written() -> None:
    right, wrong = measure_all([(problem("math", "$2\\sqrt{3}$"), each) for each in ("\\boxed{\\sqrt{12}}", "so 3")])

    assert (right.correct, right.parts, right.extracted) == (True, {"accuracy": 1.0}, "\\sqrt{12}")
    assert (wrong.correct, wrong.extracted) == (False, "so 3")


@pytest.mark.slow
def test_an_answer_is_rounded_to_the_decimals_that_are_asked_for() -> None:
    asked = problem("math", "1.2", meta={"precision": 1})
    cases = [(asked, "\\boxed{1.234}"), (asked, "\\boxed{1.27}"), (problem("math", "1.2"), "\\boxed{1.234}")]

    assert [found.correct for found in measure_all(cases)] == [True, False, False]


@pytest.mark.slow
def test_any_of_several_truths_is_right() -> None:
    either = problem("math", "24", meta={"answers": ["24", "25"]})

    assert [found.correct for found in measure_all([(either, "25"), (either, "26")])] == [True, False]


@pytest.mark.slow
def test_an_answer_that_cannot_be_compared_in_time_is_missing_not_wrong() -> None:
    found = measure(problem("math", "24"), "\\boxed{9^{9^{9^{9}}}}", Options(checker_timeout_s=0.2))

    assert found.correct is None
    assert math.isnan(found.parts["accuracy"])


# Choices and texts


def test_a_choice_is_a_letter() -> None:
    asked = problem("choice", "B", meta={"choices": ["3 cm", "4 cm"]})

    found = measure_all([(asked, "\\boxed{B}"), (asked, "It is 4 cm."), (asked, "A"), (asked, "who knows")])

    assert [each.extracted for each in found] == ["B", "B", "A", None]
    assert [each.correct for each in found] == [True, True, False, False]


def test_a_truth_that_was_delimited_for_mathematics_is_a_letter_still() -> None:
    assert measure(problem("choice", "$B$"), "B").correct is True


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("Mannerism", "<answer>mannerism.</answer>", True),
        ("the Eiffel Tower", "\\boxed{\\text{Eiffel  Tower}}", True),
        ("1200.5", "1,200.50", True),
        ("Mannerism", "not Mannerism", False),
        ("", "", False),
    ],
)
def test_a_text_is_compared_word_for_word(answer: str, response: str, expected: bool) -> None:
    assert measure(problem("text", answer), response).correct is expected


def test_a_reader_decides_and_the_rule_is_kept_beside_it() -> None:
    reader = FakeReader(True)
    asked = problem("choice", "B", meta={"choices": ["3 cm", "4 cm"]})

    found = measure(asked, "I take the second", Options(reader=reader))

    assert (found.correct, found.extracted) == (True, "second")
    assert found.parts == {"accuracy": 1.0, "accuracy_by_rule": 0.0}
    assert reader.asked == [("second", "B", ("3 cm", "4 cm"))]


@pytest.mark.parametrize("reader", [FakeReader(None), FakeReader(away=True)], ids=["says neither", "is away"])
def test_without_a_verdict_the_answer_is_neither_right_nor_wrong(reader: FakeReader) -> None:
    found = measure(problem("choice", "B"), "B", Options(reader=reader))

    assert found.correct is None
    assert math.isnan(found.parts["accuracy"])
    assert found.parts["accuracy_by_rule"] == 1.0


# Grounding and counting


def grounded(name: str = "1", **meta: str) -> Example:
    return problem("grounding", str(list(DOG)), name=name, target=Target(space=PIXELS, boxes=(DOG,)), meta=meta)


def test_a_box_in_thousandths_is_compared_with_one_in_pixels() -> None:
    found = measure(grounded(), "<|box_start|>(100,100),(500,500)<|box_end|>", Options(coordinates="rel1000"))

    assert found.correct is True
    assert found.parts["iou"] == pytest.approx(1.0)
    assert found.prediction["boxes"] == [list(DOG)]
    assert found.prediction["space"]["system"] == "pixel"


def test_grounding_is_reported_by_split_with_the_papers_average() -> None:
    half = "[64, 48, 192, 240]"
    pairs = [
        (grounded("1", dataset="refcoco", split="val"), str(list(DOG))),
        (grounded("2", dataset="refcoco", split="val"), half),
        (grounded("3", dataset="refcocog", split="test"), "nothing"),
    ]

    found = aggregate(pairs)["grounding"]

    assert list(found) == ["refcoco_val", "refcocog_test"]
    assert found["refcoco_val"] == pytest.approx(
        {
            "n": 2,
            "iou": 0.75,
            "acc@0.1": 1.0,
            "acc@0.3": 1.0,
            "acc@0.5": 1.0,
            "acc@0.75": 0.5,
            "acc@0.95": 0.5,
            "centre": 1.0,
            "avg": 2 / 3,
        }
    )
    assert found["refcocog_test"]["avg"] == 0.0


def test_faithful_grounding_misses_a_half() -> None:
    square = Space(system="pixel", width_px=1000, height_px=1000)
    whole = problem("grounding", target=Target(space=square, boxes=((100.0, 100.0, 500.0, 500.0),)))
    half = "<|box_start|>(100,100),(300,500)<|box_end|>"

    ours, published = (measure(whole, half, Options(coordinates="rel1000", faithful=f)) for f in (False, True))

    assert (ours.correct, published.correct) == (True, False)


def counted(count: int, name: str = "1", **meta: str) -> Example:
    return problem("counting", str(count), name=name, target=Target(space=PIXELS, count=count), meta=meta)


def test_counting_is_exact_match_and_errors_by_split() -> None:
    pairs = [
        (counted(3, "1", split="val"), "<answer>3</answer>"),
        (counted(3, "2", split="val"), "[1,1,2,2] and [3,3,4,4]"),
        (counted(4, "3", split="val"), "no idea"),
        (counted(1, "4", split="test"), "1"),
    ]

    found = aggregate(pairs)["counting"]

    val = found["splits"]["val"]
    assert (val["n"], val["accuracy"], val["unanswered"]) == (3, pytest.approx(1 / 3), 1)
    # Errors 0, 1 and 4: who says nothing is taken at 0.
    assert (val["mae"], val["rmse"]) == (pytest.approx(5 / 3), pytest.approx(math.sqrt(17 / 3)))
    assert found["average_accuracy"] == pytest.approx((1 / 3 + 1) / 2)


def test_a_response_without_a_number_is_not_right_where_there_is_nothing_to_count() -> None:
    nothing = counted(0)

    assert [found.correct for found in measure_all([(nothing, "none"), (nothing, "0")])] == [False, True]


# Detection


def seen(name: str, *boxes: tuple[str, tuple[float, ...]], **about: Any) -> Example:
    labels, corners = tuple(label for label, _ in boxes), tuple(box for _, box in boxes)
    target = Target(space=PIXELS, boxes=corners, labels=labels)  # type: ignore[arg-type]
    return problem("detection", "[]", name=name, target=target, meta={"coco": about} if about else {})


def written(*boxes: tuple[str, Sequence[float]]) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for label, box in boxes])


def test_detection_counts_every_image_and_says_how_ties_were_ranked() -> None:
    pairs = [
        (seen("a", ("person", DOG), image_id=7), written(("person", DOG), ("unicorn", DOG))),
        (seen("b", ("person", DOG), image_id=3), "no JSON"),
        (seen("c", image_id=5), "[]"),
    ]

    found = aggregate(pairs)["detection"]

    assert found["AP"] == pytest.approx(51 / 101)
    assert found["AR_100"] == pytest.approx(0.5)
    assert (found["images"], found["boxes"], found["unknown_labels"], found["malformed"]) == (3, 1, 1, 1)
    assert found["AP_small"] is None
    assert found["tie_order"] == "image id, then the order in which the model wrote the boxes"


def test_detections_are_exported_as_coco_results_by_image_id() -> None:
    pairs = [
        (seen("a", ("dog", DOG), image_id=7), written(("dog", (1, 2, 11, 22)))),
        (seen("b", ("person", DOG), image_id=3), written(("person", DOG), ("Person", (0, 0, 5, 5)))),
    ]
    rows = [row_of(*pair, found) for pair, found in zip(pairs, measure_all(pairs), strict=True)]

    results = detection.coco_results(rows, detection.categories_of(rows))

    assert results == [
        {"image_id": 3, "category_id": 1, "bbox": [64.0, 48.0, 256.0, 192.0], "score": 1.0},
        {"image_id": 3, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 1.0},
        {"image_id": 7, "category_id": 18, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 1.0},
    ]


def test_boxes_in_thousandths_are_compared_in_pixels() -> None:
    pairs = [(seen("a", ("person", DOG)), written(("person", (100, 100, 500, 500))))]

    assert aggregate(pairs, Options(coordinates="rel1000"))["detection"]["AP"] == pytest.approx(1.0)


def test_sizes_and_crowds_are_the_sources() -> None:
    crowd = {"label": "dog", "box": [1.0, 2.0, 11.0, 22.0], "area": 90.0}
    example = seen("a", ("person", DOG), image_id=1, areas=[500.0], crowd=[crowd])
    row = row_of(example, "[]", measure(example, "[]"))

    found = detection.coco_truth([row], coco.IDS)["annotations"]

    assert found == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [64.0, 48.0, 256.0, 192.0], "area": 500.0, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 18, "bbox": [1.0, 2.0, 10.0, 20.0], "area": 90.0, "iscrowd": 1},
    ]


def test_a_box_on_a_crowd_costs_nothing() -> None:
    crowd = {"label": "person", "box": [0.0, 300.0, 600.0, 480.0], "area": 9e4}
    on_crowd = written(("person", (10, 310, 60, 400)), ("person", DOG))
    pairs = [(seen("a", ("person", DOG), image_id=1, areas=[5e4], crowd=[crowd]), on_crowd)]

    assert aggregate(pairs)["detection"]["AP"] == pytest.approx(1.0)


def test_names_of_ones_own_are_numbered_in_order() -> None:
    pairs = [(seen("a", ("red square", DOG), ("blue circle", DOG)), written(("red square", DOG)))]
    rows = [row_of(*pair, found) for pair, found in zip(pairs, measure_all(pairs), strict=True)]

    assert detection.categories_of(rows) == {"blue circle": 1, "red square": 2}
    rows[0]["meta"]["classes"] = ["red square", "blue circle", "green star"]
    assert list(detection.categories_of(rows)) == ["blue circle", "green star", "red square"]


def test_images_without_a_number_are_numbered_by_the_order_of_their_ids() -> None:
    rows = [{"id": "b", "meta": {}}, {"id": "a", "meta": {"coco": {"image_id": 9}}}]

    assert detection.image_ids(rows) == {"a": 1, "b": 2}


def test_the_order_of_rows_does_not_change_the_numbers() -> None:
    pairs = [
        (seen(name, ("person", DOG)), written(("person", DOG if name < "c" else (0, 0, 9, 9)), ("person", DOG)))
        for name in "abcd"
    ]

    assert aggregate(pairs) == aggregate(pairs[::-1])


# Pages


def test_pages_are_reported_by_language_and_meteor_says_what_it_misses() -> None:
    pairs = [
        (problem("ocr", "one two", meta={"language": "en"}), "<think>hm</think><answer>one two</answer>"),
        (problem("ocr", "你好世界", name="2", meta={"language": "cn"}), ""),
    ]

    found = aggregate(pairs)["ocr"]

    assert list(found["splits"]) == ["cn", "en"]
    assert found["splits"]["en"]["edit_distance"] == 0.0
    assert found["splits"]["cn"]["f1"] == 0.0
    assert (found["splits"]["en"]["meteor"] is None) == ("meteor_missing" in found)


def test_faithful_ocr_reads_the_thinking_too() -> None:
    page = problem("ocr", "one two")
    response = "<think>hm</think><answer>one two</answer>"

    ours, published = (measure(page, response, Options(faithful=faithful)) for faithful in (False, True))

    assert ours.parts["edit_distance"] == 0.0
    assert published.parts["edit_distance"] > 0.5


# All of them


def test_accuracy_is_broken_down_by_labels_and_lists_of_labels() -> None:
    def asked(name: str, **by: Any) -> Example:
        return problem("choice", "B", name=name, meta={"by": by})

    pairs = [
        (asked("1", subject="Math", skills=["geometry", "algebra"]), "B"),
        (asked("2", subject="Math", skills=["geometry"]), "A"),
        (asked("3", subject="Art"), "B"),
    ]

    found = aggregate(pairs)["by"]

    assert {label: share["accuracy"] for label, share in found["subject"].items()} == {"Art": 1.0, "Math": 0.5}
    assert {label: share["n"] for label, share in found["skills"].items()} == {"algebra": 1, "geometry": 2}
    assert found["subject"]["Math"]["low"] < 0.5 < found["subject"]["Math"]["high"]


def test_wemaths_scores_come_of_its_groups() -> None:
    def asked(step: str, answer: str) -> tuple[Example, str]:
        meta = {"wemath": {"group": "g", "steps": 2, "step": step}}
        return problem("choice", "B", name=step, meta=meta), answer

    found = aggregate([asked("1", "B"), asked("2", "A"), asked("multi", "B")])["wemath"]

    assert (found["groups"], found["score_strict"], found["score_loose"]) == (1, 0.0, 1.0)


def test_a_file_of_several_kinds_is_measured_by_each() -> None:
    pairs = [(problem("choice", "B"), "B"), (grounded("2"), str(list(DOG))), (counted(2, "3"), "2")]

    assert list(aggregate(pairs)) == ["grounding", "counting"]
    assert [found.correct for found in measure_all(pairs)] == [True, True, True]


@given(response=st.text(max_size=200), kind=st.sampled_from(["choice", "text", "grounding", "counting", "detection"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_response_is_an_error(response: str, kind: Any) -> None:
    target = Target(space=PIXELS, boxes=(DOG,), labels=("person",))
    example = problem(kind, "B", target=target)

    for faithful in (False, True):
        found = measure(example, response, Options(faithful=faithful))
        json.dumps(row_of(example, response, found), allow_nan=False)
