"""How long the report of a run with 10,000 rollouts takes to build and to open, and how large it is.

    python -m bench.report --json report.json

The run is made of a seed: 1,250 problems with a photo each (640 x 480, JPEG, some 80 kB), eight responses a problem of
about 700 words, half of them with boxes to draw, half with facts and a judge's reply. What is timed is
``python -m eval.report``, a process of its own, and Chromium from asking for the page until the list of rollouts and
the first of them are on the screen. Exit code 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.figures import Figure, table
from eval.target import Space, Target
from orchestrator.files import write_json
from orchestrator.run_directory import RunDirectory

CHECKOUT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BUILD, SIZE, OPEN = "s to build the report", "MB of the report", "s to open it"
BUILD_CPU = "s of the processor to build the report"
GOALS = {BUILD: 20.0, SIZE: 60.0, OPEN: 2.0}
WORDS = 2000
FREQUENCIES = (weights := 1 / (np.arange(WORDS) + 2.7)) / weights.sum()
PHOTO_PX = (640, 480)
TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the run is: problems, one a group of a step; responses a problem; words of a response."""

    problems: int = 1250
    samples: int = 8
    words: int = 700
    problems_per_step: int = 10


def measure(folder: Path, scale: Scale, repeats: int, *, browser: bool = True) -> list[Figure]:
    """Return seconds to build, megabytes, and seconds to open.

    Args:
        folder: Where to put the run.
        scale: Its size.
        repeats: How often each is timed.
        browser: Whether to open the page too.
    """
    run = make(folder / "run", scale)
    built = [_build(run) for _ in range(repeats)]
    wall_s, cpu_s = [wall for wall, _ in built], [cpu for _, cpu in built]
    who = f"{scale.problems * scale.samples:,} rollouts"
    opened = [_open(run.report) for _ in range(repeats)] if browser else []
    return [
        Figure(what=BUILD, who=who, values=wall_s, goal=GOALS[BUILD]),
        Figure(what=BUILD_CPU, who=who, values=cpu_s, note="other work on the machine changes this less"),
        Figure(what=SIZE, who=who, values=[round(run.report.stat().st_size / 1e6, 1)], goal=GOALS[SIZE]),
        *([Figure(what=OPEN, who=who, values=opened, goal=GOALS[OPEN])] if browser else []),
    ]


def make(folder: Path, scale: Scale, seed: int = 1) -> RunDirectory:
    """Write a run of that size and return it."""
    run = RunDirectory(folder.absolute())
    run.create()
    generator = np.random.default_rng(seed)
    vocabulary = _vocabulary(generator)
    (run.path / "images").mkdir()
    texture = _texture(generator)
    with run.rollouts.open("w", encoding="utf-8") as log:
        for number in range(scale.problems):
            image = _photo(run, texture, number)
            for row in _group(generator, vocabulary, scale, number, image):
                log.write(json.dumps(row) + "\n")
    steps = math.ceil(scale.problems / scale.problems_per_step)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in _metrics(generator, steps)), encoding="utf-8")
    rewards = {"accuracy": 0.9, "format": 0.1, "visual_perception": 0.7}
    train = {"name": "train", "job": "grpo", "kind": "batch", "settings": {"rewards": rewards}}
    write_json(run.plan, {"name": run.name, "recipe": "bench", "cluster": "local", "roles": [train]})
    return run


def _vocabulary(generator: np.random.Generator) -> list[str]:
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lengths = generator.integers(2, 11, WORDS)
    return ["".join(generator.choice(letters, length)) for length in lengths]


def _texture(generator: np.random.Generator) -> Any:
    """Return a large picture with detail at every scale, to cut photos from."""
    from PIL import Image

    whole = np.zeros((2048, 2048, 3))
    for octave in range(3, 11):
        noise = generator.normal(size=(2**octave, 2**octave, 3))
        layer = [
            Image.fromarray(noise[:, :, c].astype(np.float32)).resize((2048, 2048), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        whole += np.stack([np.asarray(channel) for channel in layer], axis=2) * 110 / 1.25 ** (octave - 3)
    return Image.fromarray(np.clip(128 + whole, 0, 255).astype(np.uint8))


def _photo(run: RunDirectory, texture: Any, number: int) -> str:
    left, top = (37 * number) % (2048 - PHOTO_PX[0]), (101 * number) % (2048 - PHOTO_PX[1])
    file = io.BytesIO()
    texture.crop((left, top, left + PHOTO_PX[0], top + PHOTO_PX[1])).save(file, "JPEG", quality=88)
    name = f"images/{hashlib.sha256(file.getvalue() + str(number).encode()).hexdigest()[:16]}.jpg"
    (run.path / name).write_bytes(file.getvalue())
    return name


def _group(
    generator: np.random.Generator, vocabulary: Sequence[str], scale: Scale, number: int, image: str
) -> Iterator[dict[str, Any]]:
    boxes = number % 2 == 0
    left, top = (int(v) for v in generator.integers(0, 300, 2))
    box = (left, top, left + 120, top + 100)
    space = Space(system="pixel", width_px=PHOTO_PX[0], height_px=PHOTO_PX[1])
    prompt = f"<image>{_sentence(generator, vocabulary, 40)}. Put the answer between <answer> and </answer>."
    for sample in range(scale.samples):
        thought = _sentence(generator, vocabulary, int(generator.normal(scale.words, scale.words / 6)))
        answer = str([v + int(generator.integers(-20, 20)) for v in box]) if boxes else f"\\boxed{{{sample % 3}}}"
        right = bool(generator.random() < 0.5)
        yield {
            "step": 1 + number // scale.problems_per_step,
            "id": f"{number:016x}",
            "sample": sample,
            "prompt": prompt,
            "images": [image],
            "answer": str(list(box)) if boxes else "1",
            "visual_key_info": None if boxes else "<info1>AB is 5</info1>\n<info2>B is a right angle</info2>",
            "kind": "grounding" if boxes else "math",
            "target": Target(space=space, boxes=(box,)).to_json() if boxes else None,
            "response": f"<think>\n{thought}\n</think>\n<answer>\n{answer}\n</answer>",
            "tokens": scale.words,
            "finish": "stop",
            "rewards": {"format": 1.0, "iou": 0.5}
            if boxes
            else {"accuracy": float(right), "format": 1.0, "visual_perception": None if sample == 7 else 0.5},
            "total": None if sample == 7 and not boxes else round(float(generator.normal(1, 0.4)), 6),
            "advantage": round(float(generator.normal()), 6),
            "judge": None
            if boxes
            else {
                "reply": "<info1>1</info1>\n<info2>0</info2>",
                "latency_s": 0.4321,
                "cached": False,
                "attempts": 1,
                "missing": "no verdict within 10 s" if sample == 7 else "",
            },
        }


def _sentence(generator: np.random.Generator, vocabulary: Sequence[str], words: int) -> str:
    # The law of Zipf and Mandelbrot: text that is about as hard to deflate as what people and models write.
    ranks = generator.choice(WORDS, max(words, 1), p=FREQUENCIES)
    return " ".join(vocabulary[rank] for rank in ranks)


def _metrics(generator: np.random.Generator, steps: int) -> Iterator[dict[str, Any]]:
    for step in range(1, steps + 1):
        level = step / steps
        yield {
            "step": step,
            "time": 1_790_000_000.0 + 60 * step,
            "critic/rewards/mean": level + float(generator.normal(0, 0.05)),
            "reward/accuracy": level,
            "reward/format": 1.0,
            "reward/visual_perception": 0.5 * level,
            "actor/grad_norm": float(generator.lognormal()),
            "timing_s/step": 55.0,
        }


def _build(run: RunDirectory) -> tuple[float, float]:
    """Return seconds by the clock, and of the processor."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "eval.report", "--run-dir", str(run.path)]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(time.monotonic() - began, 2), round(cpu_s, 2)


def _open(report: Path) -> float:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.goto("about:blank")
        began = time.monotonic()
        page.goto(report.as_uri(), wait_until="commit")
        page.wait_for_selector("#list .row")
        page.wait_for_selector("#shown[data-row]")
        took_s = time.monotonic() - began
        browser.close()
    return round(took_s, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--problems", type=int, default=Scale.problems, help=f"(default: {Scale.problems})")
    parser.add_argument("--words", type=int, default=Scale.words, help=f"of a response (default: {Scale.words})")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    given = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="report-") as folder:
        scale = Scale(problems=given.problems, words=given.words)
        found = measure(Path(folder), scale, given.repeats, browser=not given.no_browser)
    print("\n".join(table(found)))
    if given.json:
        content = {"schema": 1, "figures": [figure.to_json() for figure in found]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
