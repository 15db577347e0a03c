"""Rows packed one behind the other score as they do padded, and do not see each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs import vlm
from jobs.grpo import packing
from jobs.grpo.forward import Batch, ScoringModel
from jobs.grpo.rollout import TrainingRow
from jobs.tiny import shapes, tokenizer
from tests.jobs.grpo.scored import WORDS, batch, gradients, rows, scoring, weighted

PICTURED = ((0,), (1, 2), (), (3,))
TEXT_ONLY = ((), (), (), ())


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    shapes.save_judge(folder, tokenizer.build([*WORDS, "system user assistant\n"] * 3), hidden=64, layers=2, seed=1)
    return folder


def test_parts_are_as_full_as_the_budget_lets_them_be_and_keep_the_order() -> None:
    lengths = [3, 3, 3, 1, 7, 12, 2]

    packed = packing.by_tokens(range(7), lengths, 10, padded=False)
    padded = packing.by_tokens(range(7), lengths, 10, padded=True)

    assert packed == [[0, 1, 2, 3], [4], [5], [6]]
    assert padded == [[0, 1, 2], [3], [4], [5], [6]]


def test_no_rows_are_no_parts() -> None:
    assert packing.by_tokens([], [], 10, padded=True) == []
    assert packing.by_rows([], 3) == []


def test_a_packed_sequence_has_no_padding_and_counts_every_row_from_0(policy_folder: Path) -> None:
    given = rows(PICTURED)
    padded = batch(policy_folder, given).inputs

    packed = batch(policy_folder, given, packing=True).inputs

    lengths = padded["attention_mask"].sum(-1).tolist()
    assert packed["input_ids"].shape == (1, sum(lengths))
    assert packed["position_ids"][0].tolist() == [place for length in lengths for place in range(length)]
    assert "attention_mask" not in packed


def test_packed_positions_are_the_models_own_of_every_row(policy_folder: Path) -> None:
    given = rows(PICTURED)
    backbone = scoring(policy_folder).model.model
    padded = batch(policy_folder, given).inputs
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    expected_3NT, _ = backbone.get_rope_index(**{name: padded[name] for name in names})

    packed = batch(policy_folder, given, packing=True).inputs
    found_41L = packing.with_model_positions(backbone, packed)["position_ids"]

    assert torch.equal(found_41L[1:, 0], expected_3NT[:, padded["attention_mask"].bool()])
    assert torch.equal(found_41L[0], packed["position_ids"])
    assert not torch.equal(found_41L[0], found_41L[2])


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("images", [PICTURED, TEXT_ONLY], ids=["images", "no images"])
def test_packed_rows_score_as_padded_ones_in_values_and_gradients(
    policy_folder: Path, images: tuple[tuple[int, ...], ...], chunk: int | None
) -> None:
    assert_packing_changes_nothing(scoring(policy_folder, chunk=chunk), policy_folder, rows(images))


@pytest.mark.parametrize("chunk", [None, 5])
def test_packed_rows_of_a_text_only_model_score_as_padded_ones(text_folder: Path, chunk: int | None) -> None:
    assert_packing_changes_nothing(scoring(text_folder, chunk=chunk), text_folder, rows(TEXT_ONLY))


def assert_packing_changes_nothing(model: ScoringModel, folder: Path, given: list[TrainingRow]) -> None:
    padded, packed = batch(folder, given), batch(folder, given, packing=True)

    expected = model(padded, entropy_grad=True)
    (weighted(expected[0]) + weighted(expected[1].flip(0))).backward()
    expected_gradients = gradients(model)
    found = model(packed, entropy_grad=True)
    (weighted(found[0]) + weighted(found[1].flip(0))).backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(model), expected_gradients, rtol=1e-4, atol=1e-4)


def test_a_row_alone_in_its_pack_scores_as_padded(policy_folder: Path) -> None:
    assert_packing_changes_nothing(scoring(policy_folder), policy_folder, rows(((1, 2),)))


@pytest.mark.parametrize("images", [PICTURED, TEXT_ONLY], ids=["images", "no images"])
def test_a_packed_row_does_not_see_the_rows_before_it(policy_folder: Path, images: tuple[tuple[int, ...], ...]) -> None:
    given = rows(images)
    others = [replace(row, tokens=tuple(reversed(row.tokens))) for row in given[:-1]]
    others[0] = replace(others[0], text=others[0].text + WORDS[3], example="another")
    model = scoring(policy_folder)

    first, second = (
        model(batch(policy_folder, [*before, given[-1]], packing=True))[0][-1] for before in (given[:-1], others)
    )

    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_rows_that_could_see_each_other_would_score_otherwise(policy_folder: Path) -> None:
    """So the tests above would notice: one sequence that counts on is what packing by mistake looks like."""
    given = rows(TEXT_ONLY)
    packed = batch(policy_folder, given, packing=True)
    length = packed.inputs["input_ids"].shape[1]
    seeing = Batch(
        inputs=packed.inputs | {"position_ids": torch.arange(length).unsqueeze(0)},
        places_NT=packed.places_NT,
        tokens_NT=packed.tokens_NT,
        mask_NT=packed.mask_NT,
    )
    model = scoring(policy_folder)

    apart, together = model(packed)[0], model(seeing)[0]

    torch.testing.assert_close(together[0], apart[0], rtol=1e-5, atol=1e-5)
    assert (together[-1] - apart[-1]).abs().max() > 1e-2


def test_an_image_shows_in_its_own_row_only(policy_folder: Path) -> None:
    given = rows(((0,), (1,), (0,)))
    changed = [replace(given[0], example="x", images=(bytes(given[1].images[0]),)), *given[1:]]
    model = scoring(policy_folder)

    before, after = (model(batch(policy_folder, each, packing=True))[0] for each in (given, changed))

    assert (before[0] - after[0]).abs().max() > 1e-4
    torch.testing.assert_close(before[1:], after[1:], rtol=1e-5, atol=1e-5)


def test_a_text_only_model_has_no_positions_of_its_own(text_folder: Path) -> None:
    packed = batch(text_folder, rows(TEXT_ONLY), packing=True).inputs

    assert packing.with_model_positions(vlm.load_model(text_folder).model, packed) == packed
