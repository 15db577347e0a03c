"""Scenes of all tasks: what is drawn is what is true, and a right response earns everything there is to earn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from eval import counting, detection, edit_distance, grounding
from jobs import data
from jobs.data import canonical
from jobs.data.scenes import canvas, registry
from jobs.data.scenes import detection as detection_scenes
from jobs.data.scenes.scene import Scene

TASKS = tuple(registry.TASKS)
MAPS = ("grounding", "counting", "detection")
CARELESS = 0.65
END = "<|im_end|>"


def worth(scene: Scene, response: str) -> float:
    """Return what the metric behind the task's reward says of a response, 1 being the best."""
    example = scene.example
    if example.kind == "ocr":
        return edit_distance.similarity(response, example.answer)
    assert example.target is not None
    if example.kind == "grounding":
        return grounding.iou_of(response, example.target, "rel1000")
    if example.kind == "counting":
        return counting.score(response, example.target, "rel1000").reward
    return detection.score(response, example.target, "pixel").reward / 3


def boxes_px(scene: Scene) -> list[tuple[float, ...]]:
    """Return where a scene's truth says that things lie; of points the box that a thing of counting has around it."""
    target = scene.example.target
    assert target is not None
    if target.boxes:
        return [tuple(box) for box in target.boxes_in("pixel").tolist()]
    reach = canvas.FIELD_PX / 2 - canvas.INSET_PX
    return [(x - reach, y - reach, x + reach, y + reach) for x, y in target.points_in("pixel").tolist()]


def painted_px(scene: Scene, colours: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the extent of paint of these colours in every field where there is any, as corners."""
    picture = np.asarray(data.decode(scene.example.images[0])).astype(int)
    paint = np.any(
        [np.abs(picture - canvas.PALETTE[colour]).max(axis=-1) <= canvas.SHADE for colour in colours], axis=0
    )
    found = []
    for row, column in product(range(canvas.FIELDS), range(canvas.FIELDS)):
        left, top = column * canvas.FIELD_PX, row * canvas.FIELD_PX
        y, x = np.nonzero(paint[top : top + canvas.FIELD_PX, left : left + canvas.FIELD_PX])
        if len(x):
            found.append((left + x.min(), top + y.min(), left + x.max() + 1, top + y.max() + 1))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_scenes_are_a_function_of_seed_and_split(task: str) -> None:
    first = registry.scenes(task, "train", 5, seed=1, careless=CARELESS)

    assert registry.scenes(task, "train", 9, seed=1, careless=CARELESS)[:5] == first
    assert registry.scenes(task, "train", 5, seed=2, careless=CARELESS) != first


@pytest.mark.parametrize("task", TASKS)
def test_no_picture_is_drawn_twice_within_or_across_splits(task: str) -> None:
    scenes = [scene for split in ("train", "test", "warm") for scene in registry.scenes(task, split, 60, seed=1)]

    assert len({scene.example.images for scene in scenes}) == len({scene.example.id for scene in scenes}) == 180


@pytest.mark.parametrize("task", TASKS)
def test_a_right_response_earns_everything_and_a_careless_one_less_where_it_differs(task: str) -> None:
    scenes = registry.scenes(task, "train", 120, seed=1, careless=CARELESS)

    differ = [scene for scene in scenes if scene.careless != scene.response]

    assert {
        round(worth(scene, scene.response + END if task in MAPS[:2] else scene.response), 6) for scene in scenes
    } == {1}
    assert 0.15 < len(differ) / len(scenes) < 0.6
    assert all(worth(scene, scene.careless) < 0.99 for scene in differ)


@pytest.mark.parametrize("task", TASKS)
def test_an_annotator_who_is_never_careless_is_always_right(task: str) -> None:
    assert all(scene.careless == scene.response for scene in registry.scenes(task, "train", 50, seed=1))


@pytest.mark.parametrize("task", MAPS)
def test_truth_is_where_the_paint_is(task: str) -> None:
    for scene in registry.scenes(task, "train", 30, seed=1):
        target = scene.example.target
        assert target is not None
        names = target.labels or (scene.example.problem.split("of the ")[1],)
        named = {label: detection_scenes.NAMES[label][1] for label in names if label in detection_scenes.NAMES}
        colours = sorted({named.get(name, name.split()[0]) for name in names})

        true, found = sorted(boxes_px(scene)), sorted(painted_px(scene, colours))

        assert len(true) == len(found)
        # Lines of the map, two pixels wide, may hide an edge or a tip.
        assert np.abs(np.subtract(true, found)).max() <= 4


def test_pictures_are_small_and_hold_whole_patches() -> None:
    for task in TASKS:
        [scene] = registry.scenes(task, "train", 1, seed=1)

        assert data.decode(scene.example.images[0]).size == (112, 112)


def test_responses_of_grounding_and_counting_have_the_form_of_qwen2_vl() -> None:
    assert all(grounding.well_formed(scene.response + END) for scene in registry.scenes("grounding", "a", 20, seed=1))
    assert all(counting.well_formed(scene.response + END) for scene in registry.scenes("counting", "a", 20, seed=1))


def test_every_coordinate_of_a_response_is_a_word_of_its_task() -> None:
    for task, system in (("grounding", "rel1000"), ("detection", "pixel")):
        numbers = {
            str(round(number))
            for scene in registry.scenes(task, "train", 60, seed=1)
            if scene.example.target is not None
            for box in scene.example.target.boxes_in(system).tolist()  # type: ignore[arg-type]
            for number in box
        }

        assert numbers == set(canvas.numbers(system)) <= set(registry.TASKS[task].words)  # type: ignore[arg-type]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    examples = [scene.example for task in TASKS for scene in registry.scenes(task, "train", 3, seed=1)]

    canonical.write(tmp_path / "scenes.parquet", examples)

    assert [each.target for each in data.load("examples", tmp_path / "scenes.parquet")] == [e.target for e in examples]
