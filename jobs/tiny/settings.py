"""What the tiny builder may be told. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.section import Section


class WarmStart(Section):
    """How one tiny model is made."""

    hidden: int = Field(128, ge=32, multiple_of=32)
    """Width of the language model; its heads are 32 wide."""
    layers: int = Field(3, ge=1)
    """Depth of the language model."""
    examples: int = Field(2400, ge=1)
    """Different examples to learn from."""
    steps: int = Field(300, ge=1)
    """Optimiser steps."""
    batch: int = Field(16, ge=1)
    """Examples in one step."""
    learning_rate: float = Field(2e-3, gt=0)
    """The highest rate; it falls linearly towards 0, which makes the last steps count."""
    warmup_steps: int = Field(20, ge=0)
    """Steps over which the rate grows."""
    prompt_weight: float = Field(0.0, ge=0)
    """How much the prompt's own text teaches; see ``jobs.sft``."""


class Settings(Section):
    """Makes what a laptop recipe needs: scenes of a task, a warm-started policy and, for geo3k, a trained judge."""

    task: Literal["geo3k", "grounding", "counting", "ocr", "detection"] = "geo3k"
    """What the scenes are of. Settings about kinds of shapes and about the judge belong to geo3k alone."""
    seed: int = 1
    """Fixes scenes, weights and the order of examples."""
    train: int = Field(960, ge=1)
    """Scenes to train on."""
    test: int = Field(300, ge=1)
    """Held-out scenes, drawn with other seeds."""
    asked: int = Field(2, ge=1, le=3)
    """Kinds of shapes in a question, each with one fact."""
    others: int = Field(1, ge=0, le=2)
    """Kinds in the picture that nobody asks about."""
    count_max: int = Field(5, ge=1, le=9)
    """The most shapes of one kind."""
    format_prompt: str = "Think, then answer."
    """What follows every question, in the warm start as in training and evaluation."""
    careless: float = Field(0.65, ge=0, le=1)
    """How often the annotator of the warm start is wrong where the task lets them be: in geo3k they miss one shape of
    many, for other tasks see ``jobs/data/scenes``. What GRPO has to put right."""
    careless_above: int = Field(3, ge=1)
    """How many shapes are many: greater counts are miscounted, smaller ones never."""
    policy: WarmStart = WarmStart()
    """The vision-language model."""
    judge: WarmStart = WarmStart(hidden=96, examples=12000, steps=450, batch=32, learning_rate=3e-3, prompt_weight=0.3)
    """The text model that judges."""
    judge_cases: int = Field(200, ge=50)
    """Held-out cases on which the judge is measured."""
    judge_accuracy_min: float = Field(0.9, ge=0, le=1)
    """A judge whose balanced accuracy is lower is an error: training on it would teach nonsense."""
    timeout_s: float = Field(1200.0, gt=0)
    """Longest time the building may take."""
