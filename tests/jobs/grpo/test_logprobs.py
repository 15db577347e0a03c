"""Log-probabilities in chunks are those of whole logits, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import loss_memory
from jobs.grpo import logprobs
from jobs.grpo.logprobs import ChunkedHead, Scoring
from orchestrator.errors import InputError

TOKENS, WIDTH, VOCABULARY = 11, 6, 17
BANNED = (3, 16)
TEMPERATURE = 0.7


class Model(nn.Module):
    """As much of a language model as a head needs."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.lm_head = head

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, head: nn.Module) -> None:
        self.lm_head = head


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(each.numel() for each in tree_leaves(made) if isinstance(each, Tensor))])
        return made


def made(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.arange(TOKENS) % 3 + 4


def chunked(hidden: Tensor, weight: Tensor, tokens: Tensor, chunk: int, *, entropy_grad: bool) -> tuple[Tensor, Tensor]:
    head = ChunkedHead(WIDTH, VOCABULARY, bias=False, device="meta")
    head.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    found: tuple[Tensor, Tensor] = head(hidden, tokens, Scoring(BANNED, TEMPERATURE, chunk, entropy_grad))
    return found


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_chunks_give_the_values_and_gradients_of_whole_logits(chunk: int, entropy_grad: bool) -> None:
    hidden, weight, tokens = made()
    weight = nn.Parameter(weight.detach())
    plain = logprobs.of_logits(
        hidden @ weight.T, tokens, banned=BANNED, temperature=TEMPERATURE, entropy_grad=entropy_grad
    )
    weights = torch.linspace(-1, 2, TOKENS)

    found = chunked(hidden, weight, tokens, chunk, entropy_grad=entropy_grad)

    def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
        return (pair[0] * weights).sum() + (pair[1] * weights.flip(0)).sum()

    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradients(loss(found), hidden, weight), gradients(loss(plain), hidden, weight))


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_the_chunked_gradient_is_the_numerical_one(entropy_grad: bool) -> None:
    hidden, weight, tokens = made(torch.float64)

    def function(hidden: Tensor, weight: Tensor) -> Any:
        scoring = Scoring(BANNED, TEMPERATURE, 4, entropy_grad)
        found = logprobs._ChunkedLogprobs.apply(hidden, weight, tokens, scoring, torch.float64)
        return found if entropy_grad else found[0]

    assert torch.autograd.gradcheck(function, (hidden, weight))


def test_the_plain_entropys_gradient_is_the_numerical_one_and_finite_at_banned_tokens() -> None:
    hidden, weight, tokens = made(torch.float64)

    def function(hidden: Tensor, weight: Tensor) -> Any:
        logits = hidden @ weight.T
        return logprobs.of_logits(logits, tokens, banned=BANNED, temperature=TEMPERATURE, entropy_grad=True)

    assert torch.autograd.gradcheck(function, (hidden, weight))


def test_values_are_those_of_the_definition() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    p = torch.softmax(torch.tensor([0.5, 1.0, 1.5]), 0)

    logp, entropy = logprobs.of_logits(logits, torch.tensor([1]), banned=[3], temperature=2.0)

    assert logp.item() == pytest.approx(p[1].log().item())
    assert entropy.item() == pytest.approx(-(p * p.log()).sum().item())


def test_the_entropy_is_detached_unless_its_gradient_is_asked_for() -> None:
    hidden, weight, tokens = made()
    logits = hidden @ weight.T

    plain = logprobs.of_logits(logits, tokens, banned=BANNED, temperature=1.0)[1]
    in_chunks = chunked(hidden, weight, tokens, 4, entropy_grad=False)[1]

    assert not plain.requires_grad
    assert not in_chunks.requires_grad


def test_a_frozen_head_costs_no_gradient_of_its_own() -> None:
    hidden, weight, tokens = made()
    frozen = nn.Parameter(weight.detach(), requires_grad=False)

    logp, _ = chunked(hidden, frozen, tokens, 4, entropy_grad=False)
    logp.sum().backward()

    assert frozen.grad is None
    assert hidden.grad is not None


def test_without_gradients_nothing_is_kept_for_a_backward_pass() -> None:
    hidden, weight, tokens = made()

    with torch.no_grad():
        logp, _ = chunked(hidden, weight, tokens, 4, entropy_grad=False)

    assert logp.grad_fn is None


def test_under_autocast_products_are_in_its_dtype_and_sums_in_float32() -> None:
    hidden, weight, tokens = made()
    weight = nn.Parameter(weight.detach())
    rounded = (hidden.bfloat16() @ weight.bfloat16().T).detach()
    expected, _ = logprobs.of_logits(rounded, tokens, banned=BANNED, temperature=TEMPERATURE)

    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = chunked(hidden, weight, tokens, 4, entropy_grad=False)
    hidden_grad, weight_grad = gradients(logp.sum(), hidden, weight)

    torch.testing.assert_close(logp, expected)
    assert logp.dtype == hidden_grad.dtype == weight_grad.dtype == torch.float32


def test_the_gradient_under_autocast_is_that_of_whole_logits_under_autocast() -> None:
    hidden, weight, tokens = made()
    weight = nn.Parameter(weight.detach())

    with torch.autocast("cpu", torch.bfloat16):
        plain, _ = logprobs.of_logits(
            nn.functional.linear(hidden, weight), tokens, banned=BANNED, temperature=TEMPERATURE
        )
        logp, _ = chunked(hidden, weight, tokens, 4, entropy_grad=False)

    expected, found = (gradients(each.sum(), hidden, weight) for each in (plain, logp))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_a_head_takes_the_place_of_the_models_with_the_same_parameter_and_the_same_logits() -> None:
    model = Model(nn.Linear(WIDTH, VOCABULARY, bias=False)).eval()
    old, names = model.lm_head, list(model.state_dict())
    hidden = torch.randn(2, 3, WIDTH)

    head = ChunkedHead.put(model)

    assert ChunkedHead.put(model) is head
    assert head.weight is old.weight
    assert list(model.state_dict()) == names
    assert not head.training
    assert torch.equal(model.lm_head(hidden), old(hidden))


@pytest.mark.parametrize("head", [nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3, bias=False))], ids=["bias", "other"])
def test_another_kind_of_head_is_refused(head: nn.Module) -> None:
    with pytest.raises(InputError, match="Leave logprob_chunk out"):
        ChunkedHead.put(Model(head))


def test_hooks_of_the_head_run_once_however_many_chunks_there_are() -> None:
    """What gathers a sharded parameter is such a hook; ranks with different numbers of tokens would wait for ever."""
    head = ChunkedHead.put(Model(nn.Linear(WIDTH, VOCABULARY, bias=False)))
    calls: list[str] = []
    head.register_forward_pre_hook(lambda *_: calls.append("forward"))
    head.register_full_backward_hook(lambda *_: calls.append("backward"))
    hidden, _, tokens = made()

    logp, _ = head(hidden, tokens, Scoring((), 1.0, 2, False))
    logp.sum().backward()

    assert calls == ["forward", "backward"]


def test_the_logits_of_all_tokens_never_exist() -> None:
    hidden, weight, tokens = made()

    with Largest() as whole:
        logprobs.of_logits(hidden @ weight.T, tokens, banned=BANNED, temperature=1.0)[0].sum().backward()
    with Largest() as in_chunks:
        chunked(hidden, weight, tokens, 2, entropy_grad=False)[0].sum().backward()

    assert whole.numbers == TOKENS * VOCABULARY
    assert in_chunks.numbers == weight.numel() < TOKENS * VOCABULARY


@pytest.mark.slow
def test_chunks_keep_the_losss_memory_below_the_goal() -> None:
    scale = loss_memory.Scale(tokens=512, width=32, vocabulary=150_000, chunk=64)

    ratio, *_ = loss_memory.measure(scale, repeats=1)

    assert ratio.values[0] > 0
    assert not ratio.missed
