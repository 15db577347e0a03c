from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from jobs.tiny import tokenizer

TEXTS = ("How many red circles are there?", "<think>\nred circles=three\n</think>", "system user assistant\n")


@pytest.fixture(scope="module")
def ours() -> Any:
    return tokenizer.build(TEXTS)


def test_the_same_texts_give_the_same_tokenizer(ours: Any) -> None:
    assert tokenizer.build(TEXTS).get_vocab() == ours.get_vocab()


def test_known_words_are_one_token_inside_and_outside_a_tag(ours: Any) -> None:
    inside = ours.tokenize("<info1>red circles=three</info1>")
    outside = ours.tokenize("\nred circles=three")

    assert "red" in inside
    assert "red" in outside
    assert outside == ["Ċ", "red", "Ġcircles", "=three"]


def test_every_character_can_be_encoded(ours: Any) -> None:
    text = "".join(map(chr, range(128))) + "Zürich 日本"

    assert ours.decode(ours(text)["input_ids"]) == text


def test_the_chat_template_is_that_of_qwen(ours: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]

    assert ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_whole_words_are_one_token_and_special_ones_are_left_out_of_plain_text(ours: Any) -> None:
    with_boxes = tokenizer.build(TEXTS, special=tokenizer.BOXES, whole=("125", "1000", "),("))
    text = "<|box_start|>(125,1000),(21,0)<|box_end|>"
    ids = with_boxes(text)["input_ids"]

    assert with_boxes.tokenize(text) == [
        *("<|box_start|>", "(", "125", ",", "1000", "),(", "2", "1", ",", "0", ")", "<|box_end|>"),
    ]
    assert with_boxes.decode(ids) == text
    assert with_boxes.decode(ids, skip_special_tokens=True) == "(125,1000),(21,0)"
    assert "<|box_start|>" not in ours.get_vocab()


def test_whole_words_survive_saving(ours: Any, tmp_path: Path) -> None:
    whole = tokenizer.build(TEXTS, special=tokenizer.BOXES, whole=("125", '], "label": "'))
    whole.save_pretrained(tmp_path)

    read = AutoTokenizer.from_pretrained(tmp_path)

    text = '125], "label": "red<|box_end|>'
    assert read(text)["input_ids"] == whole(text)["input_ids"]
    assert len(read(text)["input_ids"]) == 4
    assert len(read) == len(ours) + len(tokenizer.BOXES) + 2
