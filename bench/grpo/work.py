"""The work that both trainers do: a tiny untrained Qwen2.5-VL, drawn scenes, and lengths that vary.

An untrained model with a vocabulary of some hundred tokens hardly ever ends a response, so every response would be
cut at the longest length, all in the same moment. Real lengths vary, and whatever a trainer does while others are
still writing depends on it. So the end token is made as likely as a mean length asks for. Image tokens are made so
unlikely that it makes no difference whether a trainer bans them, as ours does, or not, as TRL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.trl.problem import Problem, Prompt
from jobs import data, vlm
from jobs.data import Example, synthetic
from jobs.data.geo3k import load
from jobs.grpo.prompts import Cursor, PromptSource
from jobs.tiny import shapes, tokenizer

SEED = 1
FORMAT_PROMPT = "Think, then answer."
CALIBRATIONS = 6
UNLIKELY = 40.0
"""So much lower are the logits of image tokens: less than float32 notices in a softmax."""
EMBEDDING = "embed_tokens.weight"
ADDING = ("o_proj.weight", "down_proj.weight")
"""Of a language model's layers, the weights whose output is added to the state."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much work.

    Attributes:
        hidden: Width of the language model.
        layers: Its depth.
        prompts: Groups of a step.
        samples: Responses of a group.
        tokens: Longest response.
        mean_tokens: Mean length of responses, were they not cut.
        steps: Steps of one measurement; the first is a warm-up.
        micro_batch: Rows of one forward pass of the update.
    """

    hidden: int = 128
    layers: int = 3
    prompts: int = 4
    samples: int = 8
    tokens: int = 128
    mean_tokens: int = 48
    steps: int = 8
    micro_batch: int = 32


@dataclass(frozen=True, kw_only=True)
class Work:
    """The files.

    Attributes:
        model: Hugging Face folder.
        data: Scenes, as parquet.
        folder: Where images lie and results may.
        size: How much of it.
    """

    model: Path
    data: Path
    folder: Path
    size: Size

    @property
    def rows(self) -> int:
        """Responses of one step."""
        return self.size.prompts * self.size.samples

    def problem(self, steps: int, *, judge: str | None = None, dump: Path | None = None) -> Problem:
        """Return what TRL is told: the prompts in the order in which ours deals them."""
        examples = load(self.data)
        processor = vlm.load_processor(self.model)
        needed = steps * self.size.prompts
        return Problem(
            model=str(self.model),
            prompts=tuple(self._prompt(example) for example in islice(self._dealt(examples), needed)),
            prompts_per_step=self.size.prompts,
            samples_per_prompt=self.size.samples,
            max_new_tokens=self.size.tokens,
            steps=steps,
            learning_rate=1e-6,
            micro_batch=self.size.micro_batch,
            end=vlm.end_id(processor),
            judge=judge,
            dump=None if dump is None else str(dump),
        )

    def _dealt(self, examples: list[Example]) -> Iterator[Example]:
        source = PromptSource(examples=len(examples), batch=self.size.prompts, seed=SEED)
        cursor = Cursor()
        while True:
            indices, cursor = source.deal(cursor)
            yield from (examples[index] for index in indices)

    def _prompt(self, example: Example) -> Prompt:
        image = self.folder / f"{example.id}.png"
        image.write_bytes(example.images[0])
        return Prompt(id=example.id, text=data.prompt(example, FORMAT_PROMPT), image=str(image))


def build(folder: Path, size: Size) -> Work:
    """Draw the scenes and write the model."""
    drawn = synthetic.scenes("bench", max(32, size.prompts * 2), seed=SEED)
    scenes = folder / "scenes.parquet"
    synthetic.write(scenes, drawn)
    words = tokenizer.build([f"{scene.question} {scene.response} {FORMAT_PROMPT}" for scene in drawn])
    model = folder / "model"
    shapes.save_policy(model, words, hidden=size.hidden, layers=size.layers, seed=SEED)
    shape(model, load(scenes)[0], size.mean_tokens)
    return Work(model=model, data=scenes, folder=folder, size=size)


def shape(model: Path, example: Example, mean_tokens: int) -> float:
    """Make responses end after ``mean_tokens`` on average and hold no image token; return the end's probability.

    The first number of every token's embedding becomes the same, and no layer adds to it, so the first number of the
    last state is always positive; more of it in a token's row makes that token likelier whatever was written.
    """
    file, processor = model / "model.safetensors", vlm.load_processor(model)
    weights, end, banned = load_file(file), vlm.end_id(processor), vlm.banned_ids(processor)
    embedding_VH = next(value for name, value in weights.items() if name.endswith(EMBEDDING))
    embedding_VH[:, 0] = 4 * embedding_VH.std()
    for name in (name for name in weights if name.endswith(ADDING) and "visual" not in name):
        weights[name][0] = 0
    probability = math.nan
    for calibration in range(CALIBRATIONS):
        save_file(weights, file, metadata={"format": "pt"})
        probability, slope = _end(model, example, end)
        embedding_VH[end, 0] += (_log_odds(1 / mean_tokens) - _log_odds(probability)) / slope
        if calibration == 0:
            embedding_VH[banned, 0] -= UNLIKELY / slope
    return probability


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _end(model: Path, example: Example, end: int) -> tuple[float, float]:
    """Return the mean probability of the end token behind a prompt and random words, and its logit's slope."""
    processor, policy = vlm.load_processor(model), vlm.load_model(model, trainable=False)
    prompt = vlm.encode(processor, data.prompt(example, FORMAT_PROMPT), example.images)
    words = torch.randint(0, min(vlm.banned_ids(processor)), (64,), generator=torch.Generator().manual_seed(SEED))
    inputs = vlm.pad_sequences([prompt], [words.tolist()], vlm.pad_id(processor)).inputs
    with torch.inference_mode():
        found = policy(**inputs, output_hidden_states=True, use_cache=False)
    behind = slice(-len(words), None)
    return (
        float(found.logits[0, behind].float().softmax(-1)[:, end].mean()),
        float(found.hidden_states[-1][0, behind, 0].mean()),
    )
