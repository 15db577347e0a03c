from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from eval.generation import Inbox, Question, problems_sha256, questions, text, weights_sha256
from eval.settings import Settings
from jobs.data import Example

PROBLEM = Example(id="p", problem="<image>What is {x}?", answer="3", images=(b"png",))


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"models": {"a": "m"}, "tasks": {"t": {"path": "t.parquet"}}, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"format_prompt": "Think."}, "<image>What is {x}? Think.", id="the format prompt after a space"),
        pytest.param({"format_prompt": ""}, "<image>What is {x}?", id="without one, the problem alone"),
        pytest.param(
            {"format_prompt": "", "prompt_template": "Q {y}: {problem}\nA:"},
            "Q {y}: <image>What is {x}?\nA:",
            id="braces are braces",
        ),
    ],
)
def test_what_the_user_says(values: dict[str, Any], expected: str) -> None:
    assert text(settings(**values), PROBLEM) == expected


def test_every_seed_asks_for_n_answers_with_seeds_of_their_own() -> None:
    asked = questions(settings(temperature=1.0, n=2, seeds=[3, 4]), [PROBLEM])

    assert [(question.key, question.run_seed) for question in asked] == [
        (("p", 0), 3),
        (("p", 1), 3),
        (("p", 2), 4),
        (("p", 3), 4),
    ]
    assert len({question.seed for question in asked}) == 4


def test_a_seed_does_not_depend_on_what_else_is_asked() -> None:
    other = Example(id="q", problem="?", answer="3", images=())

    alone = questions(settings(temperature=1.0), [PROBLEM])
    behind = questions(settings(temperature=1.0), [other, PROBLEM])

    assert alone == behind[1:]


def test_the_same_problems_have_the_same_hash_and_others_another() -> None:
    asked = questions(settings(), [PROBLEM])

    assert problems_sha256(asked, ["3"]) == problems_sha256(list(asked), ["3"])
    assert problems_sha256(asked, ["3"]) != problems_sha256(asked, ["4"])
    assert problems_sha256(asked, ["3"]) != problems_sha256(questions(settings(format_prompt="!"), [PROBLEM]), ["3"])


def test_an_inbox_gives_what_is_there_and_waits_only_if_told_to() -> None:
    inbox = Inbox()
    first, second = (Question(key=(name, 0), text="?") for name in "ab")
    inbox.put([first, second])

    assert inbox.take(1, wait=False) == [first]
    assert inbox.take(5, wait=True) == [second]
    assert inbox.take(5, wait=False) == []


def test_an_engine_that_waits_hears_a_stop() -> None:
    inbox, taken = Inbox(), []
    waiting = threading.Thread(target=lambda: taken.append(inbox.take(1, wait=True)))
    waiting.start()

    inbox.stop()
    waiting.join(timeout=5)

    assert taken == [[]]
    assert inbox.stopped


def test_a_model_is_known_by_the_names_and_contents_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = weights_sha256(str(tmp_path))
    (tmp_path / "README.md").write_bytes(b"words")

    assert weights_sha256(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert weights_sha256(str(tmp_path)) != before
    assert weights_sha256("Qwen/Qwen2.5-VL-7B-Instruct") is None
