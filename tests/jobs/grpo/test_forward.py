"""Log-probabilities of completions: the same numbers whether whole, in chunks, or through an adapter's wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs import vlm
from jobs.grpo.forward import Batches, ScoringModel
from jobs.grpo.rollout import TrainingRow
from tests.jobs.grpo.scored import TEMPERATURE, batch, gradients, processor, rows, scoring, settings, weighted

IMAGES = ((0,), (1, 2), (), (3,))


def directly(model: Any, folder: Path, given: Sequence[TrainingRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probability, entropy and mask as one formula without any of the code under test."""
    its = processor(folder)
    prompts = [vlm.encode(its, row.text, row.images) for row in given]
    inputs = vlm.pad_sequences(prompts, [row.tokens for row in given], vlm.pad_id(its)).inputs
    logits = model(**inputs, use_cache=False).logits
    starts_N1 = torch.tensor([[len(prompt.input_ids)] for prompt in prompts])
    lengths_N1 = torch.tensor([[len(row.tokens)] for row in given])
    offsets_1T = torch.arange(max(len(row.tokens) for row in given)).unsqueeze(0)
    mask_NT = (offsets_1T < lengths_N1).float()
    completion_NT = starts_N1 + torch.minimum(offsets_1T, lengths_N1 - 1)
    picked_NTV = torch.take_along_dim(logits, (completion_NT - 1).unsqueeze(-1), dim=1)
    scaled_NTV = (picked_NTV.float() / TEMPERATURE).index_fill(-1, torch.tensor(vlm.banned_ids(its)), -torch.inf)
    logp_NTV = torch.log_softmax(scaled_NTV, dim=-1)
    tokens_NT = torch.take_along_dim(inputs["input_ids"], completion_NT, dim=1)
    logp_NT = logp_NTV.gather(-1, tokens_NT.unsqueeze(-1)).squeeze(-1)
    entropy_NT = torch.special.entr(logp_NTV.detach().exp()).sum(-1)
    return logp_NT.masked_fill(mask_NT == 0, 0.0), entropy_NT * mask_NT, mask_NT


def test_whole_logits_give_the_bits_of_the_formula_in_values_and_gradients(policy_folder: Path) -> None:
    given = rows(IMAGES)
    model = scoring(policy_folder)
    expected = directly(model.model, policy_folder, given)
    weighted(expected[0]).backward()
    expected_gradients = gradients(model)
    tensors = batch(policy_folder, given)

    logp_NT, entropy_NT = model(tensors)
    weighted(logp_NT).backward()

    assert torch.equal(logp_NT, expected[0])
    assert torch.equal(entropy_NT, expected[1])
    assert torch.equal(tensors.mask_NT, expected[2])
    found = gradients(model)
    assert found.keys() == expected_gradients.keys()
    assert all(torch.equal(value, expected_gradients[name]) for name, value in found.items())


@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_chunks_give_the_values_and_gradients_of_whole_logits(
    policy_folder: Path, chunk: int, entropy_grad: bool
) -> None:
    tensors = batch(policy_folder, rows(IMAGES))
    whole, chunked = scoring(policy_folder), scoring(policy_folder, chunk=chunk)

    expected, found = (model(tensors, entropy_grad=entropy_grad) for model in (whole, chunked))
    for logp_NT, entropy_NT in (expected, found):
        (weighted(logp_NT) + weighted(entropy_NT.flip(0))).backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(chunked), gradients(whole), rtol=1e-4, atol=1e-5)


def test_completions_are_scored_the_same_alone_and_beside_others(policy_folder: Path) -> None:
    given = rows(IMAGES)
    model = scoring(policy_folder)

    together, _ = model(batch(policy_folder, given))
    alone = [model(batch(policy_folder, [row]))[0][0] for row in given]

    for index, logp_T in enumerate(alone):
        torch.testing.assert_close(together[index, : len(logp_T)], logp_T)


def test_behind_a_completions_end_stands_nothing(policy_folder: Path) -> None:
    tensors = batch(policy_folder, rows(IMAGES))

    logp_NT, entropy_NT = scoring(policy_folder)(tensors)

    absent = tensors.mask_NT == 0
    assert absent.any()
    assert not logp_NT[absent].any()
    assert not entropy_NT[absent].any()
    assert logp_NT[~absent].all()


def test_tokens_and_mask_are_those_of_the_rows(policy_folder: Path) -> None:
    given = rows(IMAGES)

    tensors = batch(policy_folder, given)

    lengths = [len(row.tokens) for row in given]
    assert tensors.mask_NT.sum(-1).tolist() == lengths
    assert [tuple(tokens[:n]) for tokens, n in zip(tensors.tokens_NT.tolist(), lengths, strict=True)] == [
        row.tokens for row in given
    ]


def test_places_foretell_the_tokens(policy_folder: Path) -> None:
    tensors = batch(policy_folder, rows(IMAGES))

    found = tensors.inputs["input_ids"].flatten()[tensors.places_NT + 1]

    assert torch.equal(found, tensors.tokens_NT)


@pytest.mark.parametrize("chunk", [None, 4])
def test_every_parameter_is_reached_through_the_modules_own_forward(policy_folder: Path, chunk: int | None) -> None:
    model = scoring(policy_folder, chunk=chunk)

    weighted(model(batch(policy_folder, rows(IMAGES)))[0]).backward()

    assert gradients(model).keys() == {name for name, _ in model.named_parameters()}


def test_a_chunked_head_leaves_the_names_and_ties_of_the_weights(policy_folder: Path) -> None:
    plain = vlm.load_model(policy_folder)
    names = list(plain.state_dict())

    model = ScoringModel(plain, banned=[], temperature=1.0, chunk=4).model

    assert list(model.state_dict()) == names
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_more_image_tokens_than_image_embeddings_stop_the_forward(policy_folder: Path) -> None:
    """The model's own check; an older one would have scattered what there was over the tokens."""
    row = replace(rows(((0,),))[0], tokens=(processor(policy_folder).image_token_id,))

    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        scoring(policy_folder)(batch(policy_folder, [row]))


def test_a_row_longer_than_any_budget_keeps_all_its_image_tokens(policy_folder: Path) -> None:
    its = processor(policy_folder)
    given = rows(((1, 2), (0,)))
    batches = Batches(its, settings(micro_batch_tokens=1))

    parts = batches.split(given)

    assert parts == [[given[0]], [given[1]]]
    inputs = batches.tensors(parts[0], "cpu").inputs
    patches = inputs["image_grid_thw"].prod(-1).sum() // its.image_processor.merge_size**2
    assert (inputs["input_ids"] == its.image_token_id).sum() == patches > 0


def test_micro_batches_are_rows_without_a_budget_of_tokens(policy_folder: Path) -> None:
    given = rows(IMAGES)

    parts = Batches(processor(policy_folder), settings(micro_batch=3)).split(given)

    assert parts == [given[:3], given[3:]]


@pytest.mark.parametrize("packing", [False, True])
def test_micro_batches_keep_to_the_budget_of_tokens_as_they_are_laid_out(policy_folder: Path, packing: bool) -> None:
    given = rows(IMAGES * 3)
    longest = batch(policy_folder, given).inputs["input_ids"].shape[1]
    batches = Batches(processor(policy_folder), settings(micro_batch_tokens=2 * longest + 1, packing=packing))

    parts = batches.split(given)

    assert [row for part in parts for row in part] == given
    sizes = [batches.tensors(part, "cpu").inputs["input_ids"].numel() for part in parts]
    assert max(sizes) <= 2 * longest + 1
    assert len(parts) < len(given)
