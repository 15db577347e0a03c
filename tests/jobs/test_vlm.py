"""The glue to Qwen2.5-VL, on an untrained tiny one: what is batched must equal what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import data, vlm
from jobs.data import synthetic
from jobs.tiny import shapes, tokenizer

QUESTIONS = ("How many?", "How many red circles and blue squares are there? Think, then answer.")
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    shapes.save_policy(path, tokenizer.build([*QUESTIONS, "system user assistant\n"]), hidden=32, layers=2, seed=1)
    return path


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return vlm.load_processor(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return vlm.load_model(folder, trainable=False)


@pytest.fixture(scope="module")
def prompts(processor: Any) -> list[vlm.Prompt]:
    drawings = [synthetic.draw(scene) for scene in synthetic.scenes("test", 2, seed=1)]
    texts = [f"<image>{question}" for question in QUESTIONS]
    return [vlm.encode(processor, text, [image]) for text, image in zip(texts, drawings, strict=True)]


def generated(model: Any, processor: Any, prompts: list[vlm.Prompt]) -> tuple[list[list[int]], torch.Tensor]:
    inputs = vlm.pad_left(prompts, vlm.pad_id(processor))
    out = model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=vlm.pad_id(processor),
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences[:, inputs["input_ids"].shape[1] :].tolist(), torch.stack(out.logits, 1).log_softmax(-1)


def test_a_prompt_holds_one_token_for_every_merged_patch(processor: Any, prompts: list[vlm.Prompt]) -> None:
    prompt = prompts[0]

    assert prompt.pixel_values is not None
    assert prompt.pixel_values.shape == (64, 1176)
    assert prompt.input_ids.count(processor.image_token_id) == 16
    assert vlm.collapsed(prompt).count(processor.image_token_id) == 1
    assert len(vlm.collapsed(prompt)) == len(prompt.input_ids) - 15


def test_left_padding_changes_no_greedy_token(model: Any, processor: Any, prompts: list[vlm.Prompt]) -> None:
    together, _ = generated(model, processor, prompts)
    alone = [generated(model, processor, [prompt])[0][0] for prompt in prompts]

    assert len(prompts[0].input_ids) != len(prompts[1].input_ids)
    assert together == alone


def test_the_training_forward_gives_the_probabilities_of_generation(
    model: Any, processor: Any, prompts: list[vlm.Prompt]
) -> None:
    completions, expected_BNV = generated(model, processor, prompts)
    batch = vlm.pad_sequences(prompts, completions, vlm.pad_id(processor))

    logp_BTV = model(**batch.inputs).logits.log_softmax(-1)

    for row, prompt in enumerate(prompts):
        first = len(prompt.input_ids)
        assert batch.completion_mask[row].nonzero().flatten().tolist() == list(range(first, first + NEW_TOKENS))
        foretold = logp_BTV[row, first - 1 : first - 1 + NEW_TOKENS]
        torch.testing.assert_close(foretold, expected_BNV[row], atol=1e-4, rtol=0)


def test_pixels_reach_the_model(model: Any, processor: Any, prompts: list[vlm.Prompt]) -> None:
    batch = vlm.pad_sequences(prompts, [[1], [1]], vlm.pad_id(processor))
    blank = {**batch.inputs, "pixel_values": torch.zeros_like(batch.inputs["pixel_values"])}

    difference = (model(**batch.inputs).logits - model(**blank).logits).abs().max()

    assert difference > 1e-3


def test_different_pictures_give_different_pixels(prompts: list[vlm.Prompt]) -> None:
    first, second = (prompt.pixel_values for prompt in prompts)
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_the_sampler_is_told_every_image_token(processor: Any) -> None:
    banned = {vlm.tokenizer(processor).convert_ids_to_tokens(identity) for identity in vlm.banned_ids(processor)}

    assert banned == {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"}


def test_placeholders_and_images_must_agree(processor: Any) -> None:
    with pytest.raises(ValueError, match=r"The text has 0 <image> for 1 image\(s\)"):
        vlm.encode(processor, "How many?", [b""])


def test_a_text_cannot_bring_its_own_image_tokens(processor: Any) -> None:
    image = synthetic.draw(synthetic.scenes("test", 1, seed=1)[0])

    with pytest.raises(ValueError, match="The text holds the image token"):
        vlm.encode(processor, "<image>How many <|vision_start|><|image_pad|><|vision_end|>?", [image])


def test_any_text_is_encoded_and_decoded_without_loss(processor: Any) -> None:
    text = "Zürich ~ 日本 \x07 `a  b`\n\t<think>5%</think>"
    ids = vlm.tokenizer(processor)(text)["input_ids"]

    assert vlm.decode(processor, [*ids, vlm.end_id(processor)]) == text


def test_the_image_processor_is_the_plain_one_to_1e_6(processor: Any) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    image = data.decode(synthetic.draw(synthetic.scenes("test", 1, seed=1)[0]))
    plain = Qwen2VLImageProcessorPil(size=dict(processor.image_processor.size))

    ours = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    theirs = plain(images=[image], return_tensors="pt")["pixel_values"]

    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
