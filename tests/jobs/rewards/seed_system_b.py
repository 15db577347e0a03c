"""PR1's cases (at 48d5558, accb7cb and, for OCR, a2f8a03): what ours gives where it differs, and how it is computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import coco_map, detection, grounding, ocr_metrics, tasks
from eval.engines.pool import Pool
from eval.generation import Answer, Question
from eval.settings import Task
from eval.target import Kind, Space, Target
from eval.tasks.detection import coco_results
from jobs.data import Example
from jobs.rewards.scorer import Score, Scorer
from jobs.rewards.settings import Rewards

PENALTY, NO_PENALTY, FIXED = "DO_PENAIlty=True", "DO_PENAIlty=False", "after_issue17_fix,DO_PENAIlty=False"
NO_MATCH = "Kept: early in training, where nothing matches, there is only the form to be learnt."
HALF = [100.0, 100.0, 300.0, 300.0]


def whatever_the_penalty(value: float) -> dict[str, float]:
    return {PENALTY: value, NO_PENALTY: value, FIXED: value}


DECISIONS: dict[str, tuple[Any, str]] = {
    "b-gr-03": (0.0, "Changed (B5 #2): a box that is turned inside out overlaps nothing and stops nobody."),
    "b-gr-06": (0.0, "Changed (B5 #3): the units are a setting, here thousandths; 0.1 of a thousandth is no guess."),
    "b-gr-07": (1.0, "Changed (B5 #3): thousandths are thousandths, with the box token or without it."),
    "b-gr-08": (1.0, "Changed: a blank before the comma does not make it another box; evaluation allows it too."),
    "b-gr-11": (0.0, "Changed (B5 #2): a box without area overlaps nothing."),
    "b-gr-12": (0.0, "Kept: a box that ends before it starts overlaps nothing."),
    "b-grf-02": (0.0, "Changed (B5 #1): the bars are escaped, so the form is demanded."),
    "b-dt-05": (whatever_the_penalty(0.25), NO_MATCH),
    "b-dt-06": (
        whatever_the_penalty(0.0),
        "Kept (B5 #6): nobody earns by predicting nothing where there is something.",
    ),
    "b-dt-07": (whatever_the_penalty(0.0), "Kept: an unknown name is no prediction, and no entry is well formed."),
    "b-dt-10": (whatever_the_penalty(2.5), "Changed (B5 #5): names are compared with themselves."),
    "b-dt-12": (
        {PENALTY: 2.375, NO_PENALTY: 2.625, FIXED: 2.625},
        "Changed: an entry that is no box costs its share of the form, not the whole response.",
    ),
    "b-dt-15": (
        whatever_the_penalty(0.25),
        "Kept: the form only. Ours gives an empty list everything, so it is learnt.",
    ),
    "b-dt-17": ([3.0], "Changed (B5 #8): one reward for one completion; there is no log to fail."),
    "b-dt-18": (whatever_the_penalty(3.0), "Changed (B5 #5): names break the tie between equal boxes."),
    "b-dt-20": (
        {PENALTY: 2.4, NO_PENALTY: 2.65, FIXED: 2.65},
        "Kept: the nearest box is the pair, whatever overlap a pair must have to count.",
    ),
    "b-oc-00": (
        {"hello world": 1.0, "hello there": 6 / 11},
        "Changed: no unused metric is computed, so no missing corpus makes a reward 0.",
    ),
    "b-eg-02": (
        {
            "pred": HALF,
            "IoU": 0.5,
            **{f"ACC@{threshold}": threshold <= 0.5 for threshold in (0.1, 0.3, 0.5, 0.75, 0.95)},
            "Center_ACC": True,
        },
        "Changed: an overlap of exactly 0.5 is one of at least 0.5; nothing is added to the union.",
    ),
    "b-ed-02": (
        [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 100], "score": 1.0},
            {"image_id": 7, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 1.0},
        ],
        "Changed: an entry that cannot be read costs itself, not those after it.",
    ),
    "b-ed-05": (
        {"mAP": 0.8349834983498348, "mAP_50": 0.834983498349835, "mAP_75": 0.834983498349835, "AR@100": 1.0},
        "Kept (B5 #11): all scores are 1.0; the order, image id and then as written, is fixed and reported.",
    ),
    "b-ed-06": (
        {"mAP": 2 / 3, "mAP_50": 2 / 3, "mAP_75": 2 / 3, "AR@100": 1.0},
        "Kept (B5 #11): the order of writing is the model's ranking.",
    ),
    "b-ed-07": ({"mAP": 0.0, "mAP_50": 0.0, "mAP_75": 0.0, "AR@100": 0.0}, "Changed: finding nothing is AP 0."),
    "b-ed-08": ([1, 2, 3], "Changed (B5 #10): every image is run unless a limit is set."),
    "b-eo-02": (
        {"bleu": 0.0, "f_measure": 2 / 3, "precision": 1.0, "recall": 0.5, "edit_dist": 0.5},
        "Changed: a word counts as often as it stands there; no match at some order is 0, not the smallest float.",
    ),
    "b-eo-04": (
        {"bleu": 0.0, "f_measure": 0.0, "precision": 0.0, "recall": 0.0, "edit_dist": 1.0},
        "Changed (B5 #13): a page of which nothing was read is a bad reading with numbers.",
    ),
    "b-eo-05": (
        {"answered": list(range(9)), "engines": 8},
        "Changed (B5 #13): engines take questions from one queue, so there are no chunks.",
    ),
}
NOT_OURS = {
    "b-dt-17": "a log that fails",
    "b-oc-00": "a corpus that is missing",
    "b-ed-08": "a default that leaves out the last image",
    "b-eo-04": "None where there is a number",
}
"""What the published code does there is not reproduced, even under ``faithful``, as nobody could want it."""


def reward(name: str, case: dict[str, Any], target: Target | None, faithful: bool, answer: str = "") -> float:
    """Return one reward of one completion, in the units and with the settings of PR1."""
    settings: dict[str, Any] = {"grounding": {"coordinates": "rel1000", "power": 2}, "counting": {"gate": True}}
    return scored(
        {name: {"weight": 1.0, **settings.get(name, {})}}, case["input"]["completion"], target, faithful, answer
    )


def scored(rewards: dict[str, Any], response: str, target: Target | None, faithful: bool, answer: str = "") -> float:
    example = Example(id="1", problem="", answer=answer, images=(), target=target)

    async def main() -> Score:
        async with Scorer(Rewards.model_validate({**rewards, "faithful": faithful})) as scorer:
            return await scorer.score(example, response)

    return asyncio.run(main()).total


def thousandths(**truth: Any) -> Target:
    return Target(space=Space(system="rel1000", width_px=640, height_px=480), **truth)


def box_of(text: str | Sequence[float]) -> tuple[float, float, float, float]:
    numbers = text.strip("[]").split(",") if isinstance(text, str) else text
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def grounding_reward(case: dict[str, Any], faithful: bool) -> float:
    return reward("grounding", case, thousandths(boxes=(box_of(case["input"]["solution"]),)), faithful)


def grounding_format(case: dict[str, Any], faithful: bool) -> float:
    return reward("grounding_format", case, None, faithful)


def counting_reward(case: dict[str, Any], faithful: bool) -> float:
    clicks = tuple((float(x), float(y)) for x, y in case["input"]["solution"])
    return reward("counting", case, thousandths(points=clicks), faithful)


def detection_target(solution: Mapping[str, Any]) -> Target:
    names = {number: name for name, number in detection.coco.IDS.items()}
    return Target(
        space=Space(system="pixel", width_px=640, height_px=480),
        boxes=tuple(map(box_of, solution["target_box"])),
        labels=tuple(names[number] for number in solution["target_id"]),
    )


def detection_reward(case: dict[str, Any], faithful: bool) -> dict[str, float]:
    """Return the reward with and without penalty, and with the names fixed, which is our default."""
    target = detection_target(case["input"]["solution"])

    def of(penalty: float, as_published: bool) -> float:
        settings = {"detection": {"weight": 1.0, "penalty_scale": penalty}}
        return scored(settings, case["input"]["completion"], target, as_published)

    found = {PENALTY: of(0.5, faithful), NO_PENALTY: of(0.0, faithful)}
    # Upstream fixed names after this commit; what it then gives for whole responses is ours.
    return found if faithful else {**found, FIXED: of(0.0, False)}


def detection_rewards_of_a_batch(case: dict[str, Any], faithful: bool) -> list[float]:
    one = detection_reward(case, faithful)[NO_PENALTY]
    return [one] * case["input"]["n_completions"]


def ocr_reward(case: dict[str, Any], faithful: bool) -> Any:
    given = case["input"]
    if "completions" in given:
        return {text: scored({"ocr": 1.0}, text, None, faithful, given["solution"]) for text in given["completions"]}
    return scored({"ocr": 1.0}, given["completion"], None, faithful, given["solution"])


def measured(kind: Kind, example: Example, response: str, faithful: bool, **options: Any) -> tasks.Measured:
    measurement = tasks.build(kind, tasks.Options(faithful=faithful, **options))
    return asyncio.run(measurement.measure(example, response))


def example_of(kind: Kind, target: Target) -> Example:
    return Example(id="1", problem="", answer="", images=(), kind=kind, target=target)


def grounding_evaluation(case: dict[str, Any], faithful: bool) -> dict[str, Any]:
    given = case["input"]
    normalized = "<|box_start|>" in given["output"]
    target = thousandths(boxes=(box_of(given["normalized_solution" if normalized else "solution"]),))
    found = grounding.score(given["output"], target, "rel1000", faithful=faithful)
    parts = measured(
        "grounding", example_of("grounding", target), given["output"], faithful, coordinates="rel1000"
    ).parts
    return {
        "pred": list(found.box or (0, 0, 0, 0)),
        "IoU": parts["iou"],
        **{f"ACC@{threshold:g}": bool(parts[f"acc@{threshold:g}"]) for threshold in grounding.THRESHOLDS},
        "Center_ACC": bool(parts["centre"]),
    }


def counting_evaluation(case: dict[str, Any], faithful: bool) -> dict[str, Any]:
    target = thousandths(count=case["input"]["ground_truth"])
    found = measured("counting", example_of("counting", target), case["input"]["output"], faithful)
    number = found.extracted
    return {"extracted_answer": None if number is None else int(number), "correct": found.correct}


def detections(case: dict[str, Any], faithful: bool) -> list[dict[str, Any]]:
    given = case["input"]
    target = Target(space=Space(system="pixel", width_px=640, height_px=480))
    found = [measured("detection", example_of("detection", target), text, faithful) for text in given["outputs"]]
    rows = [
        {
            "id": str(number),
            "target": target.to_json(),
            "meta": {"coco": {"image_id": number}},
            "prediction": one.prediction,
        }
        for number, one in zip(given["img_ids"], found, strict=True)
    ]
    return coco_results(rows, given["cat_name_to_id"])


def average_precision(case: dict[str, Any], _faithful: bool) -> dict[str, float | None]:
    given = case["input"]
    truths = given.get("gt") or [[1, 1, [0, 0, 100, 100]]]
    truth = {
        "images": [{"id": number, "width": 640, "height": 640} for number in sorted({image for image, _, _ in truths})],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": place, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for place, (image, kind, box) in enumerate(truths, 1)
        ],
    }
    stats = coco_map.stats(truth, given["dt"])
    return {"mAP": stats["AP"], "mAP_50": stats["AP50"], "mAP_75": stats["AP75"], "AR@100": stats["AR_100"]}


def images_run(case: dict[str, Any], _faithful: bool) -> list[int]:
    images: list[int] = case["input"]["img_ids"]
    return images[: Task(source="geo3k", path="anywhere").limit]


def reading(case: dict[str, Any], faithful: bool) -> dict[str, float]:
    parts = ocr_metrics.scores(case["input"]["pred"], case["input"]["gt"], faithful=faithful).parts()
    named = {"f1": "f_measure", "edit_distance": "edit_dist"}
    return {named.get(name, name): value for name, value in parts.items()}


class Parrot:
    """An engine that answers at once."""

    room = 1
    about: Mapping[str, Any] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self._given: asyncio.Queue[Question] = asyncio.Queue()

    async def answers(self) -> AsyncIterator[Answer]:
        while True:
            question = await self._given.get()
            yield Answer(key=question.key, text=question.text, tokens=1, finish="stop", seconds=0.0)

    def feed(self, questions: Sequence[Question]) -> None:
        for question in questions:
            self._given.put_nowait(question)

    async def stop(self) -> None:
        return None

    def close(self) -> None:
        return None


def spread(case: dict[str, Any], _faithful: bool) -> dict[str, Any]:
    """Return which of so many questions so many engines answered."""
    given = case["input"]

    async def main() -> dict[str, Any]:
        engines = [Parrot(f"engine {number}") for number in range(given["n"])]
        pool = Pool(engines, timeout_s=30.0, lost=lambda *_: None)
        questions = [Question(key=(str(number), 0), text="") for number in range(given["len"])]
        answered = [int(answer.key[0]) async for answer in pool.answers(questions)]
        await pool.close()
        return {"answered": sorted(answered), "engines": pool.about["engines"]}

    return asyncio.run(main())


def advantages(case: dict[str, Any], _faithful: bool) -> list[float]:
    import torch

    from jobs.grpo import algo

    rewards, size = case["input"]["rewards"], case["input"]["G"]
    groups = [str(place // size) for place in range(len(rewards))]
    found: list[float] = algo.advantages(torch.tensor(rewards), groups, eps=1e-4).tolist()
    return found


COMPUTE: dict[str, Callable[[dict[str, Any], bool], Any]] = {
    "pr1_grounding_reward": grounding_reward,
    "pr1_grounding_format_reward": grounding_format,
    "pr1_counting_reward": counting_reward,
    "pr1_detection_reward with LOG_DIR unset": detection_rewards_of_a_batch,
    "pr1_detection_reward": detection_reward,
    "perpo_ocr_edit_distance_reward": ocr_reward,
    "evaluate_grounding per-sample scores": grounding_evaluation,
    "evaluate_counting.parse_output": counting_evaluation,
    "COCOEvaluator._parse_output": detections,
    "COCOeval bbox": average_precision,
    "COCO.loadRes": average_precision,
    "default --sample_num": images_run,
    "cal_per_metrics": reading,
    "get_chunk": spread,
    "group advantage": advantages,
}


def compute(case: dict[str, Any], _folder: Path, faithful: bool) -> Any:
    """Return what our code gives for a case's input."""
    for name, function in COMPUTE.items():
        if case["function"].startswith(name):
            return function(case, faithful)
    raise AssertionError(f"{case['id']}: nothing here computes {case['function']!r}.")


def published(case: dict[str, Any], faithful: bool) -> Any:
    """Return the published value as far as ours has one of that name."""
    expected = case["expected"]
    if isinstance(expected, dict) and faithful:
        # The fixed names are not what was published at that commit.
        expected = {name: value for name, value in expected.items() if name != FIXED}
    if isinstance(expected, dict):
        # Which units a box was taken for is our setting, not our result.
        expected = {name: value for name, value in expected.items() if name != "normalized"}
    return expected
