"""What is written is what is read: verl's parquet and our own files, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.target import Space, Target
from jobs import data
from jobs.data import canonical, verl
from jobs.data.convert import FORMATS, convert, sha256_of
from jobs.data.settings import Options
from orchestrator.errors import InputError

from .pictures import parquet, picture

SPACE = Space(system="rel1", width_px=100, height_px=50)


def examples() -> list[data.Example]:
    return [
        data.Example(id="m", problem="<image>Q", answer="$x$", images=(picture(),), visual_key_info="<info1>a</info1>"),
        data.Example(
            id="g",
            problem="<image>Q",
            answer="[0.1, 0.2, 0.30001, 0.4]",
            images=(picture("blue", form="JPEG"),),
            kind="grounding",
            target=Target(space=SPACE, boxes=((0.1, 0.2, 0.300009, 0.4),)),
            meta={"split": "val", "dataset": "refcoco"},
        ),
        data.Example(
            id="d",
            problem="<image>Ä 中 {x}",
            answer='[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "label": "ü"}]',
            images=(picture("blue", form="JPEG"),),
            kind="detection",
            target=Target(space=SPACE, boxes=((0.1, 0.2, 0.3, 0.4),), labels=("ü",)),
            meta={"coco": {"image_id": 7, "areas": [1.5], "crowd": []}, "classes": ["ü"]},
        ),
        data.Example(
            id="c",
            problem="<image><image>Q",
            answer="2",
            images=(picture(), picture("green")),
            kind="counting",
            target=Target(space=SPACE, points=((0.1, 0.2), (0.3, 0.4)), count=2),
        ),
        data.Example(id="t", problem="no image", answer=" $5 bill\n", images=(), kind="ocr"),
    ]


@pytest.mark.parametrize("to", FORMATS)
def test_all_kinds_come_back_equal_with_the_bytes_of_their_images(tmp_path: Path, to: str) -> None:
    file = tmp_path / f"a{FORMATS[to].suffix}"

    convert(examples(), to, file)

    assert data.load(FORMATS[to].source, file) == examples()


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_examples_make_the_same_bytes(tmp_path: Path, to: str) -> None:
    first, second = tmp_path / f"a{FORMATS[to].suffix}", tmp_path / f"b/a{FORMATS[to].suffix}"
    second.parent.mkdir()

    assert convert(examples(), to, first) == convert(examples(), to, second) == sha256_of(first)
    assert first.read_bytes() == second.read_bytes()


def test_to_verl_and_back_again_makes_the_same_file(tmp_path: Path) -> None:
    ours, theirs, again = tmp_path / "a.parquet", tmp_path / "verl.parquet", tmp_path / "b.parquet"
    canonical.write(ours, examples())

    verl.write(theirs, data.load("examples", ours))
    canonical.write(again, data.load("verl", theirs))

    assert ours.read_bytes() == again.read_bytes()


def test_verls_columns_are_those_that_verl_reads(tmp_path: Path) -> None:
    verl.write(tmp_path / "a.parquet", examples())

    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()

    assert list(rows[0]) == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    assert rows[0]["prompt"] == [{"role": "user", "content": "<image>Q"}]
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "$x$"}
    assert rows[0]["images"] == [{"bytes": picture(), "path": None}]
    assert [row["extra_info"]["index"] for row in rows] == ["m", "g", "d", "c", "t"]
    assert rows[1]["extra_info"]["split"] == "val"
    assert Target.from_json(json.loads(rows[1]["reward_model"]["ground_truth"])) == examples()[1].target


def foreign(**changes: Any) -> dict[str, Any]:
    return {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "<image>Find x."}],
        "images": [{"bytes": picture(), "path": None}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2 \\sqrt { 3 }"},
        "extra_info": {"split": "train", "index": 41, "answer": "2", "question": "Find x."},
        **changes,
    }


def test_verl_files_of_others_are_read_and_written_back_as_they_were(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", foreign(), foreign(extra_info={**foreign()["extra_info"], "index": 42}))

    read = data.load("verl", path)
    verl.write(tmp_path / "b.parquet", read)
    rows = pq.read_table(tmp_path / "b.parquet").to_pylist()
    for row in rows:
        del row["extra_info"]["record"]

    assert [example.id for example in read] == ["41", "42"]
    assert (read[0].problem, read[0].answer) == ("<image>Find x.", "$2 \\sqrt { 3 }$")
    assert rows == pq.read_table(path).to_pylist()
    assert data.load("verl", tmp_path / "b.parquet") == read


@pytest.mark.parametrize(
    ("kind", "truth", "answer"),
    [
        ("grounding", "[1, 2, 3, 4]", "[1, 2, 3, 4]"),
        ("counting", "3", "3"),
        ("detection", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'),
    ],
)
def test_verl_boxes_of_others_are_one_text_in_the_units_that_are_given(
    tmp_path: Path, kind: str, truth: str, answer: str
) -> None:
    path = parquet(tmp_path / "a.parquet", foreign(reward_model={"style": "rule", "ground_truth": truth}))

    [example] = data.load("verl", path, Options.model_validate({"kind": kind, "coordinates": "pixel"}))

    assert (example.kind, example.answer) == (kind, answer)
    assert example.target is not None
    with pytest.raises(InputError, match="need one image and 'coordinates'"):
        data.load("verl", path, Options.model_validate({"kind": kind}))


def test_our_jsonl_stores_an_image_once_under_its_hash(tmp_path: Path) -> None:
    canonical.write(tmp_path / "a.jsonl", examples())

    names = sorted(file.suffix for file in (tmp_path / "a_images").iterdir())

    assert names == [".jpg", ".png", ".png"]


def test_our_parquet_can_be_read_as_perception_r1s(tmp_path: Path) -> None:
    canonical.write(tmp_path / "a.parquet", examples()[:1])

    assert data.load("geo3k", tmp_path / "a.parquet") == examples()[:1]


def test_what_does_not_come_back_equal_is_an_error(tmp_path: Path) -> None:
    lossy = data.Example(id="1", problem="p", answer="1", images=(), meta={"pair": (1, 2)})

    with pytest.raises(InputError, match="is not what is read back, first at '1'"):
        convert([lossy], "parquet", tmp_path / "a.parquet")


def test_a_suffix_that_belies_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"A file of verl ends in \.parquet, not '\.jsonl'"):
        convert(examples(), "verl", tmp_path / "a.jsonl")


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
unit = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize("to", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    problem=texts,
    answer=texts,
    info=st.none() | texts,
    meta=st.dictionaries(texts.filter(lambda text: text != "verl"), json_values, max_size=3),
    points=st.lists(st.tuples(unit, unit), max_size=3),
)
def test_any_text_and_any_meta_come_back(
    tmp_path: Path, to: str, problem: str, answer: str, info: str | None, meta: Any, points: Any
) -> None:
    example = data.Example(
        id="1",
        problem=problem,
        answer=answer,
        images=(picture(),),
        visual_key_info=info,
        kind="counting",
        target=Target(space=SPACE, points=tuple(points), count=len(points)),
        meta=meta,
    )
    file = tmp_path / f"a{FORMATS[to].suffix}"

    convert([example], to, file)

    assert data.load(FORMATS[to].source, file) == [example]
