"""How good the tiny judge is: measured by the replies it really gives to held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval import facts
from jobs import vlm
from jobs.rewards import judge_prompt
from jobs.tiny.judge_cases import Case
from orchestrator.progress import Progress

BATCH = 50
REPLY_TOKENS_MAX = 120
TEMPLATE = "compact"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One fact of one case: what is true, and what the judge said. None: its reply could not be read."""

    damage: str
    stated: bool
    judged: bool | None


def measure(folder: Path, cases: Sequence[Case], progress: Progress) -> dict[str, Any]:
    """Return the judge's accuracy on ``cases``, in the form of ``judge.json``.

    Replies are generated greedily, as the server does at temperature 0. A reply that cannot be read
    counts as wrong for all its facts.
    """
    processor = vlm.load_processor(folder)
    model = vlm.load_model(folder, trainable=False)
    verdicts: list[Verdict] = []
    for first in range(0, len(cases), BATCH):
        progress.update("measuring judge", first, len(cases), unit="cases")
        batch = cases[first : first + BATCH]
        replies = _replies(model, processor, batch)
        verdicts += [verdict for case, reply in zip(batch, replies, strict=True) for verdict in _verdicts(case, reply)]
    progress.update("measuring judge", len(cases), len(cases), unit="cases")
    return summary(len(cases), verdicts)


def summary(cases: int, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return counts and accuracies; the balanced one is the mean over stated and unstated facts."""
    stated = [verdict for verdict in verdicts if verdict.stated]
    unstated = [verdict for verdict in verdicts if not verdict.stated]
    sensitivity, specificity = _accuracy(stated), _accuracy(unstated)
    damages = sorted({verdict.damage for verdict in verdicts})
    return {
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "accuracy_stated": sensitivity,
        "accuracy_unstated": specificity,
        "cases": cases,
        "facts": len(verdicts),
        "unreadable": sum(verdict.judged is None for verdict in verdicts),
        "by_damage": {
            damage or "none": _accuracy([verdict for verdict in verdicts if verdict.damage == damage])
            for damage in damages
        },
    }


def _accuracy(verdicts: Sequence[Verdict]) -> float:
    return sum(verdict.judged is verdict.stated for verdict in verdicts) / max(1, len(verdicts))


def _verdicts(case: Case, reply: str) -> list[Verdict]:
    reading = facts.read(reply, range(1, len(case.facts) + 1))
    usable = reading is not None and not reading.mismatch
    judged = [score > 0.5 for score in reading.scores] if reading is not None and usable else [None] * len(case.facts)
    return [
        Verdict(damage=case.damage, stated=stated, judged=said)
        for stated, said in zip(case.verdicts, judged, strict=True)
    ]


@torch.no_grad()
def _replies(model: Any, processor: Any, cases: Sequence[Case]) -> list[str]:
    prompts = [
        vlm.encode_chat(processor, judge_prompt.messages(case.visual_key_info, case.response, TEMPLATE))
        for case in cases
    ]
    inputs = vlm.pad_left(prompts, vlm.pad_id(processor))
    generated = model.generate(
        **inputs,
        max_new_tokens=REPLY_TOKENS_MAX,
        do_sample=False,
        eos_token_id=vlm.end_id(processor),
        pad_token_id=vlm.pad_id(processor),
    )
    return [vlm.decode(processor, row) for row in generated[:, inputs["input_ids"].shape[1] :].tolist()]
