"""Perception-R1's cases (at c47eaf2): what ours gives where it differs, and how it is computed."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web

from eval.answers import correct
from eval.facts import EPSILON, read
from eval.formatting import well_formed
from eval.repetition import penalty
from eval.significance import mcnemar_exact
from jobs.rewards.scorer import Score, Scorer, means
from jobs.rewards.settings import Rewards
from orchestrator.run_directory import RunDirectory
from tests.jobs.rewards.fake_judge import FakeJudge, completion, status
from tests.jobs.rewards.seed_cases import MISSING, cases

RULE_SCORE = "boxed_math_verify_compute_score"
ONE = 1 / (1 + EPSILON)
DECISIONS: dict[str, tuple[Any, str]] = {
    "a-fmt-03": (0.0, "Kept: the line breaks belong to the form, which the policy learns within a few steps."),
    "a-fmt-04": (0.0, "Kept: after </answer> there is nothing left to say but the end token."),
    "a-fmt-06": (1.0, "Kept: tags inside the thinking earn nothing more, so there is nothing to exploit."),
    "a-acc-05": (1.0, "Changed (B5 #19): the answer is found across lines, as the format demands lines."),
    "a-acc-07": (1.0, "Changed (B5 #20): the ground truth is delimited, so all of it is read."),
    "a-acc-08": (0.0, "Changed (B5 #20): 3 is not 2 sqrt 3."),
    "a-acc-14": (1.0, "Changed (B5 #20): a letter is a ground truth like any other."),
    "a-acc-20": (0.0, "Kept: a response that boxes two answers has not chosen one."),
    "a-acc-21": (1.0, "Changed (B5 #20): a ratio is read whole."),
    "a-acc-23": (1.0, "Kept, and the version is pinned: seven digits are enough for equality."),
    "a-judge-02": (
        {"scores": [1.0], "reward": ONE},
        "Changed (B5 #18): the share of what was asked. Here one fact was; tests/eval/test_facts.py asks three.",
    ),
    "a-judge-08": ({"scores": [1.0], "reward": ONE}, "Kept: a judge that thinks aloud ends with its verdict."),
    "a-judge-09": (MISSING, "Changed: nan is no verdict, so nobody earns by it. Asked again, then missing."),
    "a-judge-10": (
        {"scores": [], "reward": 0.0},
        "Kept for one fact, which is not confirmed; of two asked the second would count (B5 #18).",
    ),
    "a-judge-13": (
        {"rewards": [ONE, MISSING], "rewards_for_metrics": [ONE]},
        "Changed (B5 #16): a failed call leaves its own row missing, and training goes on.",
    ),
    "a-e2e-01": (
        {
            "totals": [1.0 + 0.7 * ONE, 0.1 + 0.7 * ONE - 2 / 7, 0.9],
            "metrics": {
                "overall": [1.0 + 0.7 * ONE, 0.1 + 0.7 * ONE - 2 / 7, 0.9],
                "accuracy": [1.0, 0.0, 1.0],
                "format": [1.0, 1.0, 0.0],
                "ngram_penalty": [0.0, -2 / 7, 0.0],
                "visual": [ONE, ONE],
            },
        },
        "Changed (B5 #18, #21): one fact was asked and found, whatever else the judge returned; and what is "
        "logged as the total is the total.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    answer: str
    visual_key_info: str | None


def form(case: dict[str, Any], _folder: Path, _faithful: bool) -> float:
    return float(well_formed(case["input"]["predict_str"], perception=case["function"].startswith("p")))


def accuracy(case: dict[str, Any], _folder: Path, faithful: bool) -> float:
    return float(correct(case["input"]["predict_str"], case["input"]["ground_truth"], faithful=faithful))


def rule_score(case: dict[str, Any], _folder: Path, faithful: bool) -> dict[str, float]:
    score = rule_scores(faithful)[case["id"]]
    return {"overall": score.total, **score.parts}


def problem_of(given: dict[str, Any]) -> Problem:
    return Problem(answer=given["ground_truth"], visual_key_info=None)


@cache
def rule_scores(faithful: bool) -> dict[str, Score]:
    """Score all cases that take no judge, by name: the checking process takes longer to start than for all of them."""
    of_rules = [case for case in cases("A") if case["function"].startswith(RULE_SCORE)]

    async def main() -> list[Score]:
        rewards = Rewards.model_validate({"accuracy": 0.9, "format": 0.1, "faithful": faithful})
        async with Scorer(rewards) as scorer:
            return [await scorer.score(problem_of(case["input"]), case["input"]["predict_str"]) for case in of_rules]

    return {case["id"]: score for case, score in zip(of_rules, asyncio.run(main()), strict=True)}


def repetition(case: dict[str, Any], _folder: Path, _faithful: bool) -> float:
    ngram, max_penalty = re.findall(r"=(-?[\d.]+)", case["function"])
    return penalty(case["input"]["response_str"], ngram=int(ngram), max_penalty=float(max_penalty))


def judge_reply(case: dict[str, Any], _folder: Path, faithful: bool) -> Any:
    """Read one reply. The case does not say how many facts were asked: as many as it scores, but one at least."""
    scored = len(case["expected"]["scores"])
    reading = read(case["input"]["judge_reply"], range(1, max(1, scored) + 1), faithful=faithful)
    if reading is None:
        return MISSING
    # Ours has a 0 for a fact without a tag where the published list is shorter.
    assert not any(reading.scores[scored:])
    return {"scores": list(reading.scores[:scored]), "reward": reading.reward}


def judge_batch(case: dict[str, Any], folder: Path, faithful: bool) -> dict[str, Any]:
    given = case["input"]
    replies = given.get("judge_replies") or {"ok": "<info1>1</info1>"}
    scores = asyncio.run(
        scored(
            folder,
            {"visual_perception": 1.0, "faithful": faithful},
            responses=given["responses"],
            answers=["" for _ in given["responses"]],
            facts=given["visual_key_info"],
            reply=lambda response: replies.get(response),
        )
    )
    judged = [score for score in scores if not score.left_out]
    return {
        "rewards": [score.total for score in scores],
        # Published as a list whose mean is logged; of no row it is [0], as is the mean of ours.
        "rewards_for_metrics": [score.parts["visual_perception"] for score in judged if not math.isnan(score.total)]
        or [means(scores)["visual_perception"]],
    }


def whole_reward(case: dict[str, Any], folder: Path, faithful: bool) -> dict[str, Any]:
    given = case["input"]
    rewards = {
        "accuracy": 0.9,
        "format": 0.1,
        "visual_perception": 0.7,
        "repetition": {"weight": 1.0, "ngram": 20, "max_penalty": -2.0},
        "faithful": faithful,
    }
    scores = asyncio.run(
        scored(
            folder,
            rewards,
            responses=given["responses"],
            answers=given["ground_truth"],
            facts=given["visual_key_info"],
            reply=lambda _: given["judge_reply_for_every_row"],
        )
    )
    totals = [score.total for score in scores]
    penalties = [score.parts["repetition"] for score in scores]
    without_penalty = [total - lost for total, lost in zip(totals, penalties, strict=True)]
    return {
        "totals": totals,
        "metrics": {
            # The published metric is not the published reward, and we have no such metric.
            "overall": without_penalty if faithful else totals,
            "accuracy": [score.parts["accuracy"] for score in scores],
            "format": [score.parts["format"] for score in scores],
            "ngram_penalty": penalties,
            "visual": [score.parts["visual_perception"] for score in scores if not score.left_out],
        },
    }


async def scored(
    folder: Path,
    rewards: dict[str, Any],
    *,
    responses: list[str],
    answers: list[str],
    facts: list[str | None],
    reply: Callable[[str], str | None],
) -> list[Score]:
    """Score responses with a judge that replies as told, or with status 500 where it is told nothing."""
    run = RunDirectory(folder / "run")
    run.create()

    async def chat(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = reply(body["messages"][1]["content"].split("\nResponse:\n", 1)[1])
        return await status(500)(request, body) if said is None else completion(said)

    problems = [
        Problem(answer=answer, visual_key_info=visual_key_info)
        for answer, visual_key_info in zip(answers, facts, strict=True)
    ]
    async with FakeJudge(run, chat), Scorer(Rewards.model_validate(rewards), run=run) as scorer:
        rows = zip(problems, responses, strict=True)
        return await asyncio.gather(*(scorer.score(problem, response) for problem, response in rows))


def advantages(case: dict[str, Any], _folder: Path, _faithful: bool) -> list[float]:
    import torch

    from jobs.grpo import algo

    given = case["input"]
    found: list[float] = algo.advantages(torch.tensor(given["scores"]), given["uid"], eps=1e-6).tolist()
    return found


def policy_loss(case: dict[str, Any], _folder: Path, _faithful: bool) -> dict[str, float]:
    import torch

    from jobs.grpo import algo

    given = case["input"]
    old, new = torch.tensor([given["old_log_probs"]]), torch.tensor([given["log_probs"]])
    loss = algo.policy_loss(
        new.float(), old.float(), torch.tensor([given["advantage"]]), clip_low=0.2, clip_high=0.3, dual_clip=3.0
    )
    return {
        "loss": loss.loss.mean().item(),
        # The published names: "higher" is either side of the clip, "lower" is the dual clip.
        "clipfrac_higher": (loss.clipped_low | loss.clipped_high).float().mean().item(),
        "clipfrac_lower": loss.dual_clipped.float().mean().item(),
        "ppo_kl": (old - new).mean().item(),
    }


def kl(case: dict[str, Any], _folder: Path, _faithful: bool) -> list[float]:
    import torch

    from jobs.grpo import algo

    given = case["input"]
    found: list[float] = algo.kl(torch.tensor([given["log_probs"]]), torch.tensor([given["ref_log_probs"]]), "k3")[
        0
    ].tolist()
    return found


def mcnemar(case: dict[str, Any], _folder: Path, _faithful: bool) -> float:
    return mcnemar_exact(case["input"]["b"], case["input"]["c"])


COMPUTE: dict[str, Callable[[dict[str, Any], Path, bool], Any]] = {
    "boxed_math_verify_format_reward": form,
    "preception_boxed_math_verify_format_reward": form,
    "boxed_math_verify_accuracy_reward": accuracy,
    RULE_SCORE: rule_score,
    "ngram_penalty_reward": repetition,
    "extract_visual_scores + mean": judge_reply,
    "batch_visual_key_info_reward": judge_batch,
    "CustomRewardManager.__call__": whole_reward,
    "compute_grpo_outcome_advantage": advantages,
    "compute_policy_loss": policy_loss,
    "compute_kl": kl,
    "McNemar exact": mcnemar,
}


def compute(case: dict[str, Any], folder: Path, faithful: bool) -> Any:
    """Return what our code gives for a case's input."""
    for name, function in COMPUTE.items():
        if case["function"].startswith(name):
            return function(case, folder, faithful)
    raise AssertionError(f"{case['id']}: nothing here computes {case['function']!r}.")


def published(case: dict[str, Any], faithful: bool) -> Any:
    """Return the published value; where it depends on math-verify's version, that of the pinned one."""
    expected = case["expected"]
    if isinstance(expected, dict) and "token_rewards" in expected and faithful:
        return {"totals": [sum(row) for row in expected["token_rewards"]], "metrics": expected["metrics"]}
    return expected["0.9.0"] if isinstance(expected, dict) and "0.9.0" in expected else expected
