"""Readers of public benchmarks, on files with the columns of their cards."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval import benchmarks, choices
from eval.benchmarks import emma, mathverse, mathvision, mathvista, mmmu, mmstar, reading, wemath
from jobs.data import Example, find
from jobs.data.gather import BadRows
from jobs.data.settings import Options
from orchestrator.errors import NotFound

OWN = Options(prompt="own")


def picture(colour: str = "white") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, format="PNG")
    return file.getvalue()


def cell(colour: str = "white") -> dict[str, Any]:
    """Return an image as Hugging Face stores it."""
    return {"bytes": picture(colour), "path": "x.png"}


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def only(examples: Sequence[Example]) -> Example:
    (example,) = examples
    return example


VISTA = {
    "pid": "1",
    "question": "How long?",
    "image": "images/1.jpg",
    "decoded_image": cell(),
    "choices": None,
    "unit": "cm",
    "precision": 1.0,
    "answer": "1.2",
    "question_type": "free_form",
    "answer_type": "float",
    "metadata": {"category": "math-targeted-vqa", "task": "geometry problem solving", "skills": ["geometry reasoning"]},
    "query": "Hint: one decimal place.\nQuestion: How long?",
}


def test_mathvista_asks_its_query_and_rounds_to_its_decimals(tmp_path: Path) -> None:
    example = only(mathvista.load(table(tmp_path / "testmini-00000-of-00001.parquet", VISTA)))

    assert (example.id, example.kind, example.answer) == ("1", "math", "1.2")
    assert example.problem == "<image>Hint: one decimal place.\nQuestion: How long?"
    assert example.images == (picture(),)
    assert example.meta["precision"] == 1
    assert example.meta["by"]["skills"] == ["geometry reasoning"]


def test_mathvistas_choices_are_letters_although_the_file_has_texts(tmp_path: Path) -> None:
    row = {**VISTA, "question_type": "multi_choice", "answer_type": "text", "choices": ["Yes", "No"], "answer": "No"}

    example = only(mathvista.load(table(tmp_path / "testmini-00000-of-00001.parquet", row)))

    assert (example.kind, example.answer, example.meta["choices"]) == ("choice", "B", ["Yes", "No"])
    assert "precision" not in example.meta


def test_mathvistas_hidden_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRows, match=r"row 0: The answer is ''\. Answers of hidden test splits are not public"):
        mathvista.load(table(tmp_path / "testmini-00000-of-00001.parquet", {**VISTA, "answer": ""}))


VERSE = {
    "sample_index": "7",
    "problem_index": "2",
    "problem_version": "Text Dominant",
    "question": "How long is OC?\nChoices:\nA:3 cm\nB:4 cm",
    "image": cell(),
    "answer": "B",
    "question_type": "multi-choice",
    "metadata": {"split": "testmini", "source": "x", "subject": "Plane Geometry", "subfield": "Length"},
    "query_wo": "Answer directly. How long is OC?\nChoices:\nA:3 cm\nB:4 cm",
    "query_cot": "Reason first. How long is OC?\nChoices:\nA:3 cm\nB:4 cm",
    "question_for_eval": "How long is OC?\nChoices:\nA:3 cm\nB:4 cm",
}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, "<image>How long is OC?\nChoices:\nA:3 cm\nB:4 cm"),
        ("own", "<image>Answer directly. How long is OC?\nChoices:\nA:3 cm\nB:4 cm"),
        ("own_cot", "<image>Reason first. How long is OC?\nChoices:\nA:3 cm\nB:4 cm"),
        ("Look. {question}", "<image>Look. How long is OC?\nChoices:\nA:3 cm\nB:4 cm"),
    ],
)
def test_mathverse_has_three_prompts_of_its_own(tmp_path: Path, prompt: str | None, expected: str) -> None:
    path = table(tmp_path / "testmini.parquet", VERSE)

    example = only(mathverse.load(path, Options(prompt=prompt)))

    assert example.problem == expected
    assert (example.kind, example.answer, example.meta["choices"]) == ("choice", "B", ["3 cm", "4 cm"])
    assert example.meta["by"]["problem_version"] == "Text Dominant"


def test_mathverses_vision_only_has_its_question_in_the_image(tmp_path: Path) -> None:
    row = {**VERSE, "problem_version": "Vision Only", "question": ""}

    example = only(mathverse.load(table(tmp_path / "testmini.parquet", row)))

    assert (example.problem, example.meta["choices"]) == ("<image>", ["3 cm", "4 cm"])


def test_mathverses_json_has_its_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(picture("red"))
    (tmp_path / "testmini.json").write_text(
        json.dumps([{**VERSE, "image": "a.png", "question_type": "free-form", "answer": "x^2"}])
    )

    example = only(mathverse.load(tmp_path, Options(images=str(tmp_path / "images"))))

    assert (example.kind, example.answer, example.images) == ("math", "$x^2$", (picture("red"),))


VISION = {
    "id": "4",
    "question": "Which one of <image1> and <image2> is it?",
    "options": ["3 cm", "4 cm"],
    "image": "images/4.jpg",
    "decoded_image": cell(),
    "answer": "A",
    "solution": None,
    "level": 2,
    "subject": "counting",
}


def test_mathvision_lists_its_options(tmp_path: Path) -> None:
    path = table(tmp_path / "data/test-00000-of-00001.parquet", VISION)

    example = only(mathvision.load(tmp_path))

    assert example.problem == "<image>Which one of <image1> and <image2> is it?\nChoices:\nA. 3 cm\nB. 4 cm"
    assert (example.kind, example.answer, example.meta["by"]) == ("choice", "A", {"subject": "counting", "level": "2"})
    assert only(mathvision.load(path, OWN)).problem.endswith("is it?\n(A) 3 cm\n(B) 4 cm")


def test_mathvisions_open_questions_are_mathematics(tmp_path: Path) -> None:
    example = only(
        mathvision.load(table(tmp_path / "test-0.parquet", {**VISION, "options": [], "answer": "\\frac{1}{2}"}))
    )

    assert (example.kind, example.answer) == ("math", "$\\frac{1}{2}$")
    assert "Choices" not in example.problem


WE = {
    "ID": "2steps_9",
    "split": "testmini",
    "knowledge concept": "Left-Right Position",
    "question": "Which block is to the right of H?",
    "option": "A. F;    B. D; C. B;D. I; E. No correct answer",
    "answer": "D",
    "image_path": cell(),
    "key": "2steps_multi",
    "question number": 9,
    "knowledge concept description": "..",
}


def test_wemaths_options_are_one_text_and_its_groups_are_kept(tmp_path: Path) -> None:
    path = table(tmp_path / "testmini-00000-of-00001.parquet", WE)

    example = only(wemath.load(path))

    assert example.id == "2steps_9/2steps_multi"
    assert example.problem == f"<image>Which block is to the right of H?\nChoices:\n{WE['option']}"
    assert (example.answer, example.meta["choices"]) == ("D", ["F", "D", "B", "I", "No correct answer"])
    assert example.meta["wemath"] == {"group": "2steps_9", "steps": 2, "step": "multi"}
    assert example.meta["by"]["steps"] == "two"
    assert "<Answer>: <<your option>>" in only(wemath.load(path, OWN)).problem


def test_wemaths_json_has_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "testmini.json").write_text(json.dumps([{**WE, "image_path": "a.png", "key": "3steps_2"}]))

    example = only(wemath.load(tmp_path / "testmini.json"))

    assert example.meta["wemath"] == {"group": "2steps_9", "steps": 3, "step": "2"}
    assert example.meta["by"]["steps"] == "one"


MMMU = {
    "id": "validation_Accounting_1",
    "question": "<image 1> What is it, <image 2>?",
    "options": "['$6', '<image 2>', \"it's\"]",
    "explanation": "",
    "image_1": cell("red"),
    "image_2": cell("blue"),
    "image_3": None,
    "img_type": "['Tables']",
    "answer": "B",
    "topic_difficulty": "Easy",
    "question_type": "multiple-choice",
    "subfield": "Taxes",
}


def test_mmmus_images_stand_where_the_text_names_them(tmp_path: Path) -> None:
    table(tmp_path / "Accounting/validation-00000-of-00001.parquet", MMMU)
    table(tmp_path / "Accounting/dev-00000-of-00001.parquet", {**MMMU, "id": "dev_Accounting_1"})

    example = only(mmmu.load(tmp_path))

    assert example.problem == "<image> What is it, <image>?\nChoices:\nA. $6\nB. <image>\nC. it's"
    assert example.images == (picture("red"), picture("blue"), picture("blue"))
    assert (example.kind, example.answer) == ("choice", "B")
    assert example.meta["by"] == {"subject": "Accounting", "topic_difficulty": "Easy"}
    assert only(mmmu.load_dev(tmp_path / "Accounting")).id == "dev_Accounting_1"
    assert only(mmmu.load(tmp_path, OWN)).problem.endswith(
        "(A) $6\n(B) <image>\n(C) it's\n\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    ("answer", "kind", "expected", "answers"),
    [
        ("24.5", "math", "24.5", None),
        ("['24', '24 cm']", "math", "24", ["24", "24 cm"]),
        ("transformation", "text", "transformation", None),
        ("['Mannerism', 'Mannerist']", "text", "Mannerism", ["Mannerism", "Mannerist"]),
        ("[1, 2)", "math", "$[1, 2)$", None),
        ("\\frac{3}{4}", "math", "$\\frac{3}{4}$", None),
        ("Iodine 131", "text", "Iodine 131", None),
    ],
)
def test_mmmus_open_questions_may_have_several_answers(
    tmp_path: Path, answer: str, kind: str, expected: str, answers: list[str] | None
) -> None:
    row = {**MMMU, "question_type": "open", "options": "[]", "answer": answer}

    example = only(mmmu.load(table(tmp_path / "validation-0.parquet", row)))

    assert (example.kind, example.answer, example.meta.get("answers")) == (kind, expected, answers)


def test_mmmu_pro_reads_ten_options(tmp_path: Path) -> None:
    row = {
        **MMMU,
        "id": "test_History_1",
        "options": str([str(k) for k in range(10)]),
        "answer": "J",
        "subject": "History",
    }
    folder = tmp_path / "standard (10 options)"
    table(folder / "test-00000-of-00002.parquet", row)
    table(folder / "test-00001-of-00002.parquet", {**row, "id": "test_History_2"})

    found = mmmu.load_pro(folder)

    assert [(example.id, example.answer) for example in found] == [("test_History_1", "J"), ("test_History_2", "J")]
    assert found[0].meta["by"]["subject"] == "History"


def test_mmmu_pros_vision_has_everything_in_the_image(tmp_path: Path) -> None:
    row = {"id": "test_Art_1", "image": cell(), "options": "['a', 'b']", "answer": "A", "subject": "Art"}
    path = table(tmp_path / "vision/test-0.parquet", row)

    example = only(mmmu.load_pro(path))

    assert example.problem == "<image>Answer the multiple-choice question in the image."
    assert (example.answer, example.meta["choices"]) == ("A", ["a", "b"])
    assert "'Answer: $LETTER'" in only(mmmu.load_pro(path, OWN)).problem


STAR = {
    "index": 0,
    "question": "Which one, A or B?\nOptions: A: left, mostly, B: right, C: both: all, D: none",
    "image": picture(),
    "answer": "C",
    "category": "coarse perception",
    "l2_category": "image scene",
    "meta_info": {"source": "x", "split": "val", "image_path": "x.jpg"},
}


def test_mmstars_options_stand_in_the_question(tmp_path: Path) -> None:
    example = only(mmstar.load(table(tmp_path / "mmstar.parquet", STAR)))

    assert example.problem == f"<image>{STAR['question']}"
    assert example.meta["choices"] == ["left, mostly", "right", "both: all", "none"]
    assert (example.id, example.answer) == ("0", "C")


EMMA = {
    "pid": "math_1",
    "question": "Which piece fits <image_1>?",
    "options": ["<image_2>", "<image_3>"],
    "answer": "B",
    **{f"image_{k}": cell(colour) for k, colour in enumerate(("red", "green", "blue"), 1)},
    "image_4": None,
    "image_5": None,
    "solution": None,
    "subject": "Math",
    "task": "puzzle",
    "category": "2D",
    "source": "new",
    "type": "Multiple Choice",
    "context": "Pieces may be turned.",
}


def test_emmas_options_may_be_images(tmp_path: Path) -> None:
    table(tmp_path / "Math/test-00000-of-00001.parquet", EMMA)

    example = only(emma.load(tmp_path))

    assert example.problem == ("Pieces may be turned.\nWhich piece fits <image>?\nChoices:\nA. <image>\nB. <image>")
    assert example.images == (picture("red"), picture("green"), picture("blue"))
    assert (example.kind, example.answer, example.meta["by"]["category"]) == ("choice", "B", "2D")
    assert only(emma.load(tmp_path, OWN)).problem.endswith("Please solve the problem step by step.")


def test_emmas_open_questions_are_mathematics(tmp_path: Path) -> None:
    row = {**EMMA, "type": "Open-ended", "options": None, "answer": "12"}

    example = only(emma.load(table(tmp_path / "test-0.parquet", row)))

    assert (example.kind, example.answer, example.images) == ("math", "12", (picture("red"),))


# Of all


@pytest.mark.parametrize("name", benchmarks.SOURCES)
def test_a_missing_file_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    reader = find(benchmarks.SOURCES[name])

    with pytest.raises(NotFound, match="hf download --repo-type dataset"):
        reader(tmp_path / "nothing")


def test_an_image_that_a_text_names_must_be_there(tmp_path: Path) -> None:
    row = {**MMMU, "question": "<image 3>", "id": "validation_Art_2"}

    with pytest.raises(BadRows, match=r"row 1: The text names an image, and 'image_3' is empty\."):
        mmmu.load(table(tmp_path / "validation-0.parquet", MMMU, row))


def test_a_text_that_names_no_image_is_shown_the_first(tmp_path: Path) -> None:
    example = only(
        mmmu.load(table(tmp_path / "validation-0.parquet", {**MMMU, "question": "What?", "options": "['a', 'b']"}))
    )

    assert example.problem.startswith("<image>What?")
    assert example.images == (picture("red"),)


def test_a_letter_beyond_the_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRows, match="The answer 'Z' is no letter of 2 options"):
        mathverse.load(table(tmp_path / "testmini.parquet", {**VERSE, "answer": "Z"}))


def test_only_some_rows_are_taken(tmp_path: Path) -> None:
    path = table(tmp_path / "testmini.parquet", *({**VERSE, "sample_index": str(k)} for k in range(5)))

    assert [example.id for example in mathverse.load(path, Options(take="end:2"))] == ["3", "4"]


def test_options_are_found_behind_their_heading_only() -> None:
    assert reading.listed_in("A: not this\nChoices: none", mmstar.HEADING, mmstar.MARK) == []
    assert reading.listed_in("no heading A: x, B: y", mmstar.HEADING, mmstar.MARK) == []


def test_what_a_reader_says_is_what_the_measurement_understands(tmp_path: Path) -> None:
    example = only(wemath.load(table(tmp_path / "testmini-0.parquet", WE)))

    assert (
        choices.letter("<Thought process>: <<H is first>>\n<Answer>: <<D>>", example.meta["choices"]) == example.answer
    )
