from __future__ import annotations

from pathlib import Path

import pytest

from jobs import data
from jobs.data import synthetic
from jobs.data.synthetic import Scene

SCENE = Scene(counts=(("red circles", 3), ("blue squares", 2)), others=(("green triangles", 4),), seed="x")


def test_a_scene_asks_answers_and_states_its_facts() -> None:
    assert SCENE.question == "How many red circles and blue squares are there?"
    assert SCENE.total == 5
    assert SCENE.visual_key_info == "<info1>red circles:three</info1>\n<info2>blue squares:two</info2>"


def test_the_right_response_has_the_strict_format() -> None:
    assert SCENE.response == (
        "<think>\nred circles=three\nblue squares=two\nthree+two=5\n</think>\n<answer>\n\\boxed{5}\n</answer>"
    )


def test_scenes_are_a_function_of_seed_and_split() -> None:
    assert synthetic.scenes("train", 5, seed=1) == synthetic.scenes("train", 9, seed=1)[:5]
    assert synthetic.scenes("train", 5, seed=1) != synthetic.scenes("train", 5, seed=2)


def test_splits_share_no_drawing() -> None:
    drawings = [
        {synthetic.draw(scene) for scene in synthetic.scenes(split, 200, seed=1)} for split in ("train", "test")
    ]

    assert not drawings[0] & drawings[1]


def test_kinds_of_a_scene_share_neither_colour_nor_shape() -> None:
    for scene in synthetic.scenes("train", 100, seed=1):
        kinds = [kind.split() for kind, _ in (*scene.counts, *scene.others)]
        assert len({colour for colour, _ in kinds}) == len({shape for _, shape in kinds}) == len(kinds)


def test_every_counted_shape_is_visible() -> None:
    image = data.decode(synthetic.draw(Scene(counts=(("red circles", 5), ("blue squares", 5)), seed="y")))

    centres = [(column * 28 + 14, row * 28 + 14) for row in range(4) for column in range(4)]
    colours = [image.getpixel(centre) for centre in centres]

    assert image.size == (112, 112)
    assert colours.count(synthetic.COLOURS["red"]) == 5
    assert colours.count(synthetic.COLOURS["blue"]) == 5


def test_too_many_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 kinds of up to 6 shapes do not fit"):
        synthetic.scenes("train", 1, seed=1, count_max=6)


def test_the_careless_annotator_misses_one_of_many_and_never_of_few() -> None:
    many = Scene(counts=(("red circles", 5), ("blue squares", 3)), seed="x")

    assert synthetic.careless_response(many, 1.0, 3) == synthetic.response([("red circles", 4), ("blue squares", 3)], 7)
    assert synthetic.careless_response(many, 0.0, 3) == many.response


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scenes.parquet"

    synthetic.write(path, [SCENE])
    [example] = data.load("geo3k", path)

    assert example.problem == "<image>How many red circles and blue squares are there?"
    assert example.answer == "5"
    assert example.images == (synthetic.draw(SCENE),)
    assert data.facts(example.visual_key_info) == ["red circles:three", "blue squares:two"]
