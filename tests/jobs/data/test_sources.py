"""Every source against rows written by hand in the shape that was published."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from eval.target import Space
from jobs import data
from jobs.data import rows
from jobs.data.gather import BadRows
from jobs.data.settings import Options, Resize
from orchestrator.errors import InputError, NotFound

from .pictures import json_file, json_lines, parquet, picture, save

PIXELS = Space(system="pixel", width_px=100, height_px=50)
RELATIVE = Space(system="rel1000", width_px=100, height_px=50)


def load(source: str, path: Path | str, **options: Any) -> list[data.Example]:
    return data.load(source, Path(path), Options(**options))


def problems(source: str, path: Path | str, **options: Any) -> list[str]:
    with pytest.raises(BadRows) as raised:
        load(source, path, **options)
    return list(map(str, raised.value.problems))


# VLM-R1


def vlm_r1_row(**changes: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "<image>Where is the dog?"},
        {"from": "gpt", "value": [10, 5, 60, 45]},
    ]
    return {"id": 1, "image": "a.jpg", "conversations": turns, **changes}


def test_vlm_r1_boxes_are_in_pixels_of_the_image(tmp_path: Path) -> None:
    save(tmp_path / "coco" / "a.jpg")
    path = json_lines(tmp_path / "rec.jsonl", vlm_r1_row())

    [example] = load("vlm_r1", path, images=str(tmp_path / "coco"))

    assert (example.id, example.problem, example.answer) == ("1", "<image>Where is the dog?", "[10, 5, 60, 45]")
    assert example.kind == "grounding"
    assert example.target is not None
    assert (example.target.space, example.target.boxes) == (PIXELS, ((10.0, 5.0, 60.0, 45.0),))
    assert example.place == "rec.jsonl:1"


def test_vlm_r1_several_files_have_a_folder_each_and_ids_stay_unique(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.jpg")
    save(tmp_path / "y" / "a.jpg", "blue")
    first, second = (json_lines(tmp_path / f"{name}.jsonl", vlm_r1_row()) for name in "ab")

    found = load("vlm_r1", f"{first}:{second}", images=f"{tmp_path / 'x'}:{tmp_path / 'y'}")

    assert [example.id for example in found] == ["1", "1-2"]
    assert found[0].images != found[1].images


@pytest.mark.parametrize(
    ("method", "value", "kind", "answer"),
    [
        ("mcq", "<answer> B </answer>", "choice", "B"),
        ("math", "2\\sqrt{3}", "math", "$2\\sqrt{3}$"),
        (None, 7.5, "math", "7.5"),
    ],
)
def test_vlm_r1_other_answers(tmp_path: Path, method: str | None, value: Any, kind: str, answer: str) -> None:
    save(tmp_path / "a.jpg")
    turns = [{"from": "human", "value": "<image>Q"}, {"from": "gpt", "value": value}]
    path = json_lines(tmp_path / "a.jsonl", vlm_r1_row(conversations=turns, accu_reward_method=method))

    [example] = load("vlm_r1", path)

    assert (example.kind, example.answer) == (kind, answer)


def test_a_missing_image_is_listed_with_its_line_and_the_others_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_lines(
        tmp_path / "rec.jsonl", vlm_r1_row(), vlm_r1_row(id=2, image="b.jpg"), vlm_r1_row(id=3, image=["c.jpg"])
    )

    with pytest.raises(BadRows) as raised:
        load("vlm_r1", path)

    assert [bad.place for bad in raised.value.problems] == ["rec.jsonl:2", "rec.jsonl:3"]
    assert [example.id for example in raised.value.examples] == ["1"]
    assert "2 problems" in str(raised.value)


def test_boxes_of_another_image_size_are_found_out(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "[10, 5, 600, 450]"}]
    path = json_lines(tmp_path / "a.jsonl", vlm_r1_row(conversations=turns))

    [problem] = problems("vlm_r1", path)

    assert "[10, 5, 600, 450] leaves the image of 100 x 50 pixels (units: pixel)" in problem
    assert load("vlm_r1", path, coordinates="rel1000")[0].answer == "[10, 5, 600, 450]"


# PR1


def test_pr1_grounding_prefers_the_normalised_box_and_asks_as_published(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    row = {
        "image": "a.jpg",
        "problem": "man in red",
        "solution": [10, 5, 60, 45],
        "normalized_solution": [100, 100, 600, 900],
    }

    [example] = load("pr1", json_file(tmp_path / "a.json", [row]))

    assert example.problem == "<image>Output the bounding box of the man in red in the image."
    assert example.answer == "[100, 100, 600, 900]"
    assert example.target is not None
    assert example.target.space == RELATIVE
    assert example.target.boxes_in("pixel")[0].tolist() == [10.0, 5.0, 60.0, 45.0]


@pytest.mark.parametrize("solution", [[100, 100, 600, 900], "[100, 100, 600, 900]", "(100, 100), (600, 900)"])
def test_pr1_solutions_may_be_texts(tmp_path: Path, solution: Any) -> None:
    save(tmp_path / "a.jpg")

    [example] = load("pr1", json_file(tmp_path / "a.json", [{"image": "a.jpg", "problem": "x", "solution": solution}]))

    assert example.answer == "[100, 100, 600, 900]"


def test_pr1_a_solution_is_never_evaluated(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    bomb = f"__import__('pathlib').Path({str(tmp_path / 'boom')!r}).touch()"
    path = json_file(tmp_path / "a.json", [{"image": "a.jpg", "problem": "x", "solution": bomb}])

    [problem] = problems("pr1", path)

    assert "neither JSON nor a literal" in problem
    assert not (tmp_path / "boom").exists()


def test_pr1_counting_by_clicks_and_by_number(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_file(
        tmp_path / "a.json",
        [
            {"image": "a.jpg", "problem": "dogs", "clicks": [[100, 200], [300, 400]]},
            {"image_path": "a.jpg", "question": "cats", "ground_truth": 3},
            {"image_path": "a.jpg", "question": "cats", "ground_truth": 3, "clicks": "[[1, 2]]"},
        ],
    )

    [problem] = problems("pr1", path)
    first, second = load("pr1", path, take="first:2")

    assert "The count is 3, but there are 1 points" in problem
    assert first.problem == "<image>Output all the bounding boxes of the dogs"
    assert first.target is not None
    assert (first.answer, first.target.points) == ("2", ((100.0, 200.0), (300.0, 400.0)))
    assert (second.kind, second.answer) == ("counting", "3")


def test_pr1_ocr_takes_the_second_turn_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nOCR this image: "}, {"from": "gpt", "value": " A $5 bill\n"}]

    [example] = load("pr1", json_file(tmp_path / "a.json", [{"image": "a.png", "conversations": turns}]))

    assert (example.kind, example.problem, example.answer) == ("ocr", "<image>OCR this image:", " A $5 bill\n")


def test_pr1_detection_boxes_are_about_the_resized_image(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", size_px=(640, 480))
    solution = "{'target_id': [18, 90], 'target_box': [[0, 0, 322, 238], [100, 100, 644, 476]]}"
    path = json_file(tmp_path / "a.json", [{"image": "a.jpg", "problem": "", "solution": solution}])

    [example] = load("pr1", path)

    assert data.decode(example.images[0]).size == (644, 476)
    assert example.target is not None
    assert example.target.labels == ("dog", "toothbrush")
    assert example.target.space == Space(system="pixel", width_px=644, height_px=476)
    assert example.problem.startswith("<image>Please output bbox coordinates and names of person, bicycle, car, ")
    assert example.problem.endswith("hair drier, toothbrush.")
    # A second resizing changes nothing.
    assert load("pr1", path, resize=Resize())[0] == example


@pytest.mark.parametrize("ids", [[12], ["dog"], [1, 2], "1", [[1]], None])
def test_pr1_classes_that_do_not_exist_are_errors(tmp_path: Path, ids: Any) -> None:
    save(tmp_path / "a.jpg", size_px=(56, 56))
    row = {"image": "a.jpg", "target_id": ids, "target_box": [[0, 0, 9, 9]]}

    [problem] = problems("pr1", json_file(tmp_path / "a.json", [row]))

    assert "target_id names a class of COCO for each of 1 boxes" in problem or "got None" in problem


def test_pr1_mix_takes_what_each_entry_says(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    box_rows = [{"id": f"b{n}", "image": "a.jpg", "problem": "x", "solution": [1, 2, 3, 4 + n]} for n in range(10)]
    json_file(tmp_path / "boxes.json", box_rows)
    json_lines(
        tmp_path / "counts.jsonl",
        *({"id": f"c{n}", "image": "a.jpg", "question": "x", "ground_truth": n} for n in range(4)),
    )
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "datasets:\n"
        "  - json_path: boxes.json\n    sampling_strategy: first:2\n"
        "  - json_path: boxes.json\n    sampling_strategy: end:15%\n"
        "  - json_path: counts.jsonl\n    sampling_strategy: random:2\n"
        "  - json_path: counts.jsonl\n"
    )

    found = load("pr1", mix)

    assert [example.id for example in found][:4] == ["b0", "b1", "b8", "b9"]
    assert len(found) == 4 + 2 + 4
    assert len({example.id for example in found}) == 10


def test_pr1_mix_lists_all_its_problems_with_lines(tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "datasets:\n  - json_path: a.json\n    sampling_strategy: some:3\n    wieght: 2\n  - sampling_strategy: all\n"
    )

    with pytest.raises(InputError) as raised:
        load("pr1", mix)

    message = str(raised.value)
    assert "3 problems" in message
    assert "mix.yaml:2: No such key: 'wieght'." in message
    assert "got 'some:3'" in message
    assert "mix.yaml:5: An entry names a file in 'json_path'" in message


# RefCOCO, PixMo-Count, PageOCR


def test_refcoco_a_folder_means_its_files_with_data_set_and_split(tmp_path: Path) -> None:
    save(tmp_path / "train2014" / "a.jpg")
    row = {"image": "a.jpg", "problem": "x", "solution": [1, 2, 3, 4], "normalized_solution": [10, 20, 30, 40]}
    for name in ("refcoco_val", "refcocop_testA", "refcocog_test", "other"):
        json_file(tmp_path / "anno" / f"{name}.json", [row])

    found = load("refcoco", tmp_path / "anno", images=str(tmp_path / "train2014"))
    [alone] = load("refcoco", tmp_path / "anno" / "refcocog_test.json", images=str(tmp_path / "train2014"))

    assert [(each.meta["dataset"], each.meta["split"]) for each in found] == [
        ("refcoco", "val"),
        ("refcocop", "testA"),
        ("refcocog", "test"),
    ]
    assert alone.meta == {"dataset": "refcocog", "split": "test"}
    assert len({each.id for each in found}) == 3


def test_refcoco_a_folder_without_its_files_says_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none of refcoco_val\.json.*Kangheng/PR1-Evaluations"):
        load("refcoco", tmp_path)


def test_pixmo_count_as_pr1_evaluates_it(tmp_path: Path) -> None:
    save(tmp_path / "img" / "1.jpg")
    path = json_lines(
        tmp_path / "pixmo_count_test540.jsonl", {"question": "dogs", "image_path": "1.jpg", "ground_truth": 4}
    )

    [example] = load("pixmo_count", path, images=str(tmp_path / "img"))

    assert (example.kind, example.answer, example.meta["split"]) == ("counting", "4", "test")
    assert example.problem == "<image>Output all the bounding boxes of the dogs"
    assert example.target is not None
    assert example.target.number == 4


def test_pixmo_count_originals_are_found_and_checked_by_their_hash(tmp_path: Path) -> None:
    image = save(tmp_path / "img" / "x.png").read_bytes()
    sha256 = hashlib.sha256(image).hexdigest()
    (tmp_path / "img" / "x.png").rename(tmp_path / "img" / f"{sha256}.png")
    row = {
        "image_url": "https://a/b.png",
        "image_sha256": sha256,
        "count": 2,
        "points": {"x": [1.0, 2.0], "y": [3.0, 4.0]},
        "label": "dogs",
    }
    path = parquet(tmp_path / "train.parquet", row, {**row, "image_sha256": "0" * 64})

    [problem] = problems("pixmo_count", path, images=str(tmp_path / "img"))
    [example] = load("pixmo_count", path, images=str(tmp_path / "img"), take="first:1")

    assert "row 1: There is no image 000" in problem
    assert "Save 'https://a/b.png' there." in problem
    assert example.target is not None
    assert (example.target.space, example.target.points) == (PIXELS, ((1.0, 3.0), (2.0, 4.0)))

    (tmp_path / "img" / f"{sha256}.png").write_bytes(picture("blue"))
    assert (
        "is not the one that was counted"
        in problems("pixmo_count", path, images=str(tmp_path / "img"), take="first:1")[0]
    )


def test_page_ocr_finds_the_pages_beside_its_file(tmp_path: Path) -> None:
    save(tmp_path / "cn_pdf_png" / "cn_1.png")
    turns = [{"from": "human", "value": "<image>\nOCR this image: "}, {"from": "gpt", "value": "第一页"}]
    path = json_file(tmp_path / "cn_page_ocr.json", [{"image": "cn_1.png", "len": 3, "conversations": turns}])

    [example] = load("page_ocr", path)

    assert (example.kind, example.answer, example.meta["language"]) == ("ocr", "第一页", "cn")
    assert load("page_ocr", path, prompt="pr1_ocr")[0].problem == "<image>OCR this image."


# COCO


def coco(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 9, "file_name": "b.jpg", "width": 100, "height": 50},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 50, 40], "area": 1500.5, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 20], "area": 900.0, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [3, 3, 0, 4], "area": 0.0, "iscrowd": 0},
        ],
    }
    return {**content, **changes}


def coco_file(folder: Path, content: dict[str, Any], size_px: tuple[int, int] = (100, 50)) -> Path:
    for name in ("a", "b"):
        save(folder / "val" / f"{name}.jpg", size_px=size_px)
    return json_file(folder / "instances.json", content)


def test_coco_boxes_become_corners_and_crowds_are_kept_apart(tmp_path: Path) -> None:
    path = coco_file(tmp_path, coco())

    first, second = load("coco", path, images=str(tmp_path / "val"))

    assert first.target is not None
    assert (first.target.boxes, first.target.labels) == (((10.0, 5.0, 60.0, 45.0),), ("dog",))
    assert first.answer == '[{"bbox_2d": [10, 5, 60, 45], "label": "dog"}]'
    assert first.problem == "<image>Please output bbox coordinates and names of dog, person."
    assert first.meta["coco"] == {
        "image_id": 7,
        "file_name": "a.jpg",
        "areas": [1500.5],
        "crowd": [{"box": [0.0, 0.0, 100.0, 20.0], "label": "person", "area": 900.0}],
        "without_area": 1,
    }
    assert second.target is not None
    assert (second.target.boxes, second.answer) == ((), "[]")


def test_coco_boxes_are_rescaled_with_the_image(tmp_path: Path) -> None:
    path = coco_file(tmp_path, coco())

    first, _ = load("coco", path, images=str(tmp_path / "val"), resize={"min_pixels": 20000})

    assert data.decode(first.images[0]).size == (224, 112)
    assert first.target is not None
    assert first.target.boxes[0] == pytest.approx((22.4, 11.2, 134.4, 100.8))


def test_coco_a_ground_truth_of_resized_images_gets_its_images_resized(tmp_path: Path) -> None:
    content = coco(images=[{"id": 7, "file_name": "a.jpg", "width": 644, "height": 476}])
    content["annotations"][0]["bbox"] = [100, 100, 544, 376]
    path = coco_file(tmp_path, content, size_px=(640, 480))

    [example] = load("coco", path, images=str(tmp_path / "val"))

    assert data.decode(example.images[0]).size == (644, 476)
    assert example.target is not None
    assert example.target.boxes == ((100.0, 100.0, 644.0, 476.0),)


def test_coco_boxes_of_an_image_of_another_size_are_errors(tmp_path: Path) -> None:
    path = coco_file(tmp_path, coco(), size_px=(200, 100))

    found = problems("coco", path, images=str(tmp_path / "val"))

    assert found[0] == (
        "instances.json, images[0]: 'a.jpg' is 200 x 100 pixels, and its boxes are about one of 100 x 50. "
        "If that one was resized, say how in 'resize'."
    )
    assert len(found) == 2


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("images", {"file_name": "a.jpg"}, "Every entry of images has a number of its own in 'id'"),
        ("annotations", {"image_id": []}, "Every entry of annotations has a number of an image in 'image_id'"),
        ("categories", 5, "A ground truth of COCO has the lists"),
    ],
)
def test_coco_files_that_are_none(tmp_path: Path, part: str, entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("coco", coco_file(tmp_path, coco(**{part: [entry]})))


@pytest.mark.parametrize(
    ("bbox", "category"), [([1, 2, 3], 18), (None, 18), ([1, 2, "3", 4], 18), ([1, 2, 3, 4], 99), ([1, 2, 3, 4], [1])]
)
def test_coco_bad_annotations_are_errors_of_their_image(tmp_path: Path, bbox: Any, category: Any) -> None:
    annotation = {"id": 5, "image_id": 9, "category_id": category, "bbox": bbox}

    [problem] = problems("coco", coco_file(tmp_path, coco(annotations=[annotation])), images=str(tmp_path / "val"))

    assert problem.startswith("instances.json, images[1]: ")


# LLaMA-Factory


def test_llama_factory_alpaca(tmp_path: Path) -> None:
    save(tmp_path / "img" / "a.jpg")
    row = {"instruction": "Solve.", "input": "x + 1 = 3", "output": "2", "system": "Be brief.", "images": ["img/a.jpg"]}
    json_file(tmp_path / "data.json", [row])
    json_file(tmp_path / "dataset_info.json", {"mine": {"file_name": "data.json", "columns": {"system": "system"}}})

    [example] = load("llama_factory", tmp_path)

    assert (example.problem, example.answer) == ("<image>Solve.\nx + 1 = 3", "2")
    assert example.meta == {"system": "Be brief."}


def test_llama_factory_sharegpt_with_its_own_tags(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "<image>Q"},
        {"role": "assistant", "content": "[1, 2, 30, 40]"},
    ]
    json_lines(tmp_path / "data.jsonl", {"messages": turns, "images": ["a.jpg"]})
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    entry = {"file_name": "data.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    info = json_file(tmp_path / "dataset_info.json", {"a": entry, "b": {"file_name": "none.json"}})

    [example] = load("llama_factory", info, dataset="a", kind="grounding", coordinates="pixel")

    assert (example.problem, example.answer, example.meta) == ("<image>Q", "[1, 2, 30, 40]", {"system": "S"})
    with pytest.raises(InputError, match="Name one of its data sets in 'dataset': a, b"):
        load("llama_factory", info)
    with pytest.raises(InputError, match="There is no data set 'c'"):
        load("llama_factory", info, dataset="c")


def test_llama_factory_more_than_one_exchange_is_no_problem_with_one_answer(tmp_path: Path) -> None:
    turns = [{"from": role, "value": "x"} for role in ("human", "gpt", "human", "gpt")]
    json_file(tmp_path / "data.json", [{"conversations": turns}])
    json_file(tmp_path / "dataset_info.json", {"a": {"file_name": "data.json", "formatting": "sharegpt"}})

    [problem] = problems("llama_factory", tmp_path)

    assert "the turns are of human, gpt, human, gpt" in problem


def test_llama_factory_data_of_the_hub_are_not_downloaded(tmp_path: Path) -> None:
    json_file(tmp_path / "dataset_info.json", {"a": {"hf_hub_url": "x/y"}})

    with pytest.raises(InputError, match="has no 'file_name', but 'hf_hub_url': nothing is downloaded"):
        load("llama_factory", tmp_path)


def test_llama_factory_ranking_answers_with_what_was_chosen(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}]
    row = {"conversations": turns, "chosen": {"from": "gpt", "value": "7"}, "rejected": {"from": "gpt", "value": "8"}}
    json_file(tmp_path / "data.json", [row])
    json_file(
        tmp_path / "dataset_info.json", {"a": {"file_name": "data.json", "formatting": "sharegpt", "ranking": True}}
    )

    [example] = load("llama_factory", tmp_path)

    assert (example.answer, example.meta["rejected"], example.images) == ("7", "8", ())


# VLMEvalKit


def tsv(path: Path, *cells: dict[str, str]) -> Path:
    head = list(dict.fromkeys(key for row in cells for key in row))
    path.write_text(
        "\n".join(["\t".join(head), *("\t".join(row.get(key, "") for key in head) for row in cells)]) + "\n"
    )
    return path


def encoded(colour: str = "red") -> str:
    return base64.b64encode(picture(colour)).decode()


def test_vlmevalkit_options_make_a_choice(tmp_path: Path) -> None:
    row = {
        "index": "3",
        "image": encoded(),
        "question": "Which?",
        "hint": "Look.",
        "A": "a cat",
        "B": "a dog",
        "answer": "B",
        "category": "animals",
    }

    [example] = load("vlmevalkit", tsv(tmp_path / "a.tsv", row))

    assert (example.id, example.kind, example.answer) == ("3", "choice", "B")
    assert example.problem == "<image>Look.\nWhich?\nChoices:\nA. a cat\nB. a dog"
    assert example.meta == {"choices": ["a cat", "a dog"], "by": {"category": "animals"}}
    assert example.images == (picture(),)


def test_vlmevalkit_images_may_be_lists_shared_by_index_or_files(tmp_path: Path) -> None:
    save(tmp_path / "img" / "a.png", "green")
    path = tsv(
        tmp_path / "a.tsv",
        {"index": "1", "image": encoded("blue"), "question": "Q", "answer": "4"},
        {"index": "2", "image": "1", "question": "R", "answer": "5"},
        {"index": "3", "image": f"['{encoded()}', '{encoded('blue')}']", "question": "S", "answer": "6"},
        {"index": "4", "image_path": "a.png", "question": "T", "answer": "7"},
        {"index": "5", "image": "99", "question": "U", "answer": "8"},
        {"index": "6", "image": encoded(), "question": "V", "A": "x", "B": "y", "answer": "C"},
        {"index": "7", "image": encoded(), "question": "W", "answer": ""},
    )

    found = load("vlmevalkit", path, images=str(tmp_path / "img"), take="first:4")
    bad = problems("vlmevalkit", path, images=str(tmp_path / "img"))

    assert [example.images for example in found] == [
        (picture("blue"),),
        (picture("blue"),),
        (picture(), picture("blue")),
        (picture("green"),),
    ]
    assert [problem.split(": ")[0] for problem in bad] == ["a.tsv:6", "a.tsv:7", "a.tsv:8"]


# Plain tables


def test_plain_rows_with_other_names_and_what_is_left_in_meta(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_lines(
        tmp_path / "a.jsonl", {"q": "How many?", "gt": "3:4", "picture": "a.jpg", "level": 2, "choices": ["1", "2"]}
    )

    [example] = load("plain", path, columns={"problem": "q", "answer": "gt", "images": "picture"})

    assert (example.problem, example.answer) == ("<image>How many?", "$3:4$")
    assert example.meta == {"level": 2, "choices": ["1", "2"]}


def test_plain_csv_with_boxes_and_lists_in_cells(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "b.jpg")
    path = tmp_path / "a.csv"
    path.write_text(
        "id,kind,problem,images,boxes,labels,answer\n"
        'x,grounding,the dog,a.jpg,"[1, 2, 3, 4]",,\n'
        'y,detection,all,a.jpg,"[[1, 2, 3, 4]]","[""dog""]",\n'
        "z,counting,dogs,a.jpg,,,5\n"
        'w,math,both,"[""a.jpg"", ""b.jpg""]",,,7\n'
    )

    found = load("plain", path, coordinates="pixel")

    assert [(each.id, each.kind, each.answer) for each in found] == [
        ("x", "grounding", "[1, 2, 3, 4]"),
        ("y", "detection", '[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]'),
        ("z", "counting", "5"),
        ("w", "math", "7"),
    ]
    assert len(found[3].images) == 2


def test_plain_boxes_without_units_and_ids_that_are_taken_are_errors(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    row = {"id": "1", "problem": "x", "images": ["a.jpg"], "answer": "[1, 2, 3, 4]"}
    path = json_lines(tmp_path / "a.jsonl", row, row)

    assert "Set 'coordinates' to pixel, rel1000 or rel1" in problems("plain", path, kind="grounding")[0]
    assert problems("plain", path, kind="text") == ["a.jsonl:2: Its id '1' is taken by an earlier row."]


def test_rows_are_taken_before_their_images_are_read(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_lines(
        tmp_path / "a.jsonl",
        *({"problem": f"{n}", "answer": "1", "images": "a.jpg" if n > 7 else "none.jpg"} for n in range(10)),
    )

    assert [example.problem for example in load("plain", path, take="end:2")] == ["<image>8", "<image>9"]


def test_many_questions_about_one_image_hold_it_once(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", size_px=(50, 50))
    path = json_lines(tmp_path / "a.jsonl", *({"problem": f"{n}", "answer": "1", "images": "a.jpg"} for n in range(3)))

    for options in ({}, {"resize": {"min_pixels": 10_000}}):
        found = load("plain", path, **options)
        assert found[0].images[0] is found[1].images[0] is found[2].images[0]


# All of them


def test_ids_do_not_depend_on_the_prompt(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_file(tmp_path / "a.json", [{"image": "a.jpg", "problem": "dog {x}", "solution": [1, 2, 3, 4]}])

    plain, asked = (load("pr1", path, prompt=prompt)[0] for prompt in ("plain", "Find {question}!"))

    assert plain.id == asked.id
    assert asked.problem == "<image>Find dog {x}!"


def test_an_unknown_prompt_names_the_nearest(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    path = json_file(tmp_path / "a.json", [{"image": "a.jpg", "problem": "dog", "solution": [1, 2, 3, 4]}])

    assert "Did you mean 'pr1_grounding'?" in problems("pr1", path, prompt="pr1_groundin")[0]


GARBAGE: tuple[Any, ...] = (
    None,
    7,
    "x",
    [],
    {},
    [None],
    {"a": [1]},
    [[1, 2], 3],
    "[1, 2",
    True,
    [{"value": 1}, {"value": {}}],
)


@pytest.mark.parametrize("source", ["vlm_r1", "pr1", "refcoco", "page_ocr", "pixmo_count", "plain", "examples"])
def test_garbage_in_any_field_is_a_problem_of_its_row_and_never_more(tmp_path: Path, source: str) -> None:
    save(tmp_path / "a.jpg")
    good = {
        "id": "1",
        "image": "a.jpg",
        "images": ["a.jpg"],
        "image_path": "a.jpg",
        "problem": "p",
        "question": "q",
        "answer": "1",
        "kind": "math",
        "meta": "{}",
        "solution": [1, 2, 3, 4],
        "normalized_solution": [1, 2, 3, 4],
        "ground_truth": 1,
        "clicks": [[1, 2]],
        "target": None,
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "visual_key_info": None,
        "choices": ["a"],
    }
    if source in ("pr1", "refcoco"):
        del good["ground_truth"], good["clicks"]
    rows_of_garbage = [{**good, key: value} for key in good for value in GARBAGE]
    suffix = "json" if source in ("refcoco", "page_ocr") else "jsonl"
    path = tmp_path / f"a.{suffix}"
    (json_file(path, rows_of_garbage) if suffix == "json" else json_lines(path, *rows_of_garbage))
    total = len(rows.read(path, tmp_path))

    try:
        usable = len(load(source, path, coordinates="pixel"))
        bad = 0
    except BadRows as error:
        usable, bad = len(error.examples), len(error.problems)

    assert usable + bad >= total


def test_an_error_of_bad_rows_survives_another_process() -> None:
    import pickle

    error = BadRows("a: 1 problem.", [])

    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_function_of_ones_own_reads_too(tmp_path: Path) -> None:
    module = "tests.jobs.data.own_source"

    assert [example.id for example in load(f"{module}:plain", tmp_path, take="end:1")] == ["2"]
    assert [example.id for example in load(f"{module}:told", tmp_path, prompt="plain")] == ["plain"]
