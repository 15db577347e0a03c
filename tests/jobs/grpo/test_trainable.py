"""What is frozen stays, what is adapted is added, and an adapter's folder gives back what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from jobs import vlm
from jobs.grpo import trainable
from jobs.grpo.forward import ScoringModel
from jobs.grpo.settings import Lora, Policy
from orchestrator.errors import InputError
from tests.jobs.grpo.scored import batch, gradients, rows, weighted

IMAGES = ((0,), (1, 2), ())
LORA = Policy(lora=Lora(rank=4, alpha=8))


def scored(model: Any, folder: Path, *, chunk: int | None = None) -> Tensor:
    logp_NT, _ = ScoringModel(model, banned=[], temperature=1.0, chunk=chunk)(batch(folder, rows(IMAGES)))
    return logp_NT


def adapted(folder: Path, policy: Policy = LORA, **more: Any) -> Any:
    return trainable.prepare(vlm.load_model(folder), policy, **more)


def trained(folder: Path, *, seed: int = 1) -> Any:
    """Return an adapted model whose adapters do something."""
    model = adapted(folder, seed=seed)
    weighted(scored(model, folder)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad.sign()
    model.zero_grad(set_to_none=True)
    return model


def test_a_frozen_vision_tower_gets_no_gradient_and_the_rest_does(policy_folder: Path) -> None:
    model = trainable.prepare(vlm.load_model(policy_folder), Policy(train_vision=False))

    weighted(scored(model, policy_folder)).backward()

    found = gradients(model)
    assert found
    assert not any("visual" in name for name in found)
    assert found.keys() == {name for name, _ in model.named_parameters() if "visual" not in name}


def test_the_frozen_tower_keeps_nothing_for_a_backward_pass(policy_folder: Path) -> None:
    model = trainable.prepare(vlm.load_model(policy_folder), Policy(train_vision=False))
    outputs: list[Tensor] = []
    model.model.visual.register_forward_hook(lambda _module, _args, made: outputs.append(made.pooler_output))

    scored(model, policy_folder)

    assert outputs
    assert not any(output.requires_grad for output in outputs)


def test_all_is_trained_unless_said_otherwise(policy_folder: Path) -> None:
    model = trainable.prepare(vlm.load_model(policy_folder), Policy())

    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_sit_in_the_language_model_only_and_are_all_that_is_trained(policy_folder: Path) -> None:
    # The vision tower has layers of these names too.
    model = adapted(policy_folder, Policy(lora=Lora(targets=["q_proj", "gate_proj", "down_proj"])))

    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    assert len(names) == 2 * 3 * 2
    assert all(".language_model.layers." in name and ".lora_" in name for name in names)


def test_new_adapters_change_no_output_and_learn(policy_folder: Path) -> None:
    plain, model = vlm.load_model(policy_folder), adapted(policy_folder)
    expected = scored(plain, policy_folder)

    found = scored(model, policy_folder)
    weighted(found).backward()

    assert torch.equal(found, expected)
    assert gradients(model).keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_adapters_begin_the_same_for_the_same_seed_whatever_was_drawn_before(policy_folder: Path) -> None:
    torch.manual_seed(5)
    first = adapted(policy_folder, seed=1).state_dict()
    before = torch.random.get_rng_state()
    again = adapted(policy_folder, seed=1).state_dict()
    other = adapted(policy_folder, seed=2).state_dict()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_an_adapted_model_is_in_the_mode_it_was_in(policy_folder: Path) -> None:
    assert not any(module.training for module in adapted(policy_folder).modules())


@pytest.mark.parametrize("chunk", [None, 4])
def test_merged_weights_score_as_the_adapters_do_and_leave_them_alone(policy_folder: Path, chunk: int | None) -> None:
    model = trained(policy_folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = scored(model, policy_folder, chunk=chunk)
    plain = vlm.load_model(policy_folder)

    plain.load_state_dict(trainable.full_weights(model))

    torch.testing.assert_close(scored(plain, policy_folder), expected, rtol=1e-5, atol=1e-5)
    assert (scored(vlm.load_model(policy_folder), policy_folder) - expected).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_merged_weights_are_those_that_peft_merges(policy_folder: Path) -> None:
    model = trained(policy_folder)
    found = trainable.full_weights(model)

    expected = model.merge_and_unload().state_dict()

    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("policy", [LORA, Policy()], ids=["adapters", "all weights"])
def test_full_weights_can_be_made_of_values_from_elsewhere(policy_folder: Path, policy: Policy) -> None:
    model = adapted(policy_folder, policy)
    elsewhere = {name: torch.full_like(value, 0.5) for name, value in model.named_parameters()}

    found = trainable.full_weights(model, elsewhere)

    assert found.keys() == vlm.load_model(policy_folder).state_dict().keys()
    assert found["lm_head.weight"] is found["model.language_model.embed_tokens.weight"]
    q_proj = found["model.language_model.layers.0.self_attn.q_proj.weight"]
    # Rank 4 of products of halves, times alpha / rank.
    assert q_proj.unique().item() == (0.5 + 4 * 0.25 * 2 if policy.lora else 0.5)


def test_an_adapter_folder_gives_back_the_adapters_and_holds_no_pickle(policy_folder: Path, tmp_path: Path) -> None:
    model = trained(policy_folder)

    trainable.save_adapter(model, tmp_path)
    resumed = adapted(policy_folder, seed=9, adapter=tmp_path)

    assert {path.name for path in tmp_path.iterdir()} <= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())
    assert {n for n, p in resumed.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_an_adapter_folder_is_read_by_peft(policy_folder: Path, tmp_path: Path) -> None:
    model = trained(policy_folder)
    trainable.save_adapter(model, tmp_path)

    theirs = peft.PeftModel.from_pretrained(vlm.load_model(policy_folder), tmp_path)

    assert torch.equal(scored(theirs, policy_folder), scored(model, policy_folder))


def test_an_adapter_can_be_saved_from_values_from_elsewhere(policy_folder: Path, tmp_path: Path) -> None:
    model = trained(policy_folder)
    past = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()

    trainable.save_adapter(model, tmp_path, past)

    resumed = dict(adapted(policy_folder, adapter=tmp_path).named_parameters())
    assert all(torch.equal(value, resumed[name]) for name, value in past.items() if ".lora_" in name)


def test_the_reference_of_an_adapted_model_is_itself_without_the_adapters(policy_folder: Path) -> None:
    model = trained(policy_folder)
    expected = scored(vlm.load_model(policy_folder), policy_folder)

    with torch.no_grad(), model.disable_adapter():
        found = scored(model, policy_folder)

    assert torch.equal(found, expected)
    assert not torch.equal(scored(model, policy_folder), expected)


def test_an_adapter_of_another_rank_is_refused(policy_folder: Path, tmp_path: Path) -> None:
    trainable.save_adapter(adapted(policy_folder), tmp_path)

    with pytest.raises(InputError) as caught:
        adapted(policy_folder, Policy(lora=Lora(rank=2)), adapter=tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}: its adapters are not those of policy.lora, which has rank 2 and 16 tensors; the file has 16. "
        "Set policy.lora as it was when they were saved."
    )


def test_targets_that_the_language_model_lacks_are_named(policy_folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        adapted(policy_folder, Policy(lora=Lora(targets=["q_proj", "query", "qkv"])))

    assert str(caught.value) == (
        "policy.lora.targets: the language model has no linear layer named 'query', 'qkv'. "
        "It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )


@pytest.mark.parametrize("policy", [Policy(), LORA, Policy(train_vision=False)], ids=["all", "adapters", "frozen"])
def test_recomputed_activations_give_the_same_gradients_from_twice_the_work(
    policy_folder: Path, policy: Policy
) -> None:
    calls = {False: 0, True: 0}
    found: dict[bool, dict[str, Tensor]] = {}
    for recompute in calls:
        model = adapted(policy_folder, policy.model_copy(update={"gradient_checkpointing": recompute}))

        def count(*_: Any, key: bool = recompute) -> None:
            calls[key] += 1

        trainable.plain(model).model.language_model.layers[0].mlp.register_forward_pre_hook(count)
        weighted(scored(model, policy_folder)).backward()
        found[recompute] = gradients(model)

    assert calls == {False: 1, True: 2}
    torch.testing.assert_close(found[True], found[False])
