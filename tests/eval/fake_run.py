"""A run directory as a finished run leaves it, drawn from a seed; for tests of whatever reads one.

python -m tests.eval.fake_run FOLDER     write one, to look at its report
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from eval.target import Space, Target
from orchestrator.files import write_json
from orchestrator.run_directory import RunDirectory

START = 1_790_000_000.0
SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": "#c8443f", "blue": "#3d6fb4", "green": "#4d8f57", "orange": "#d98a35"}
WEIGHTS = {"accuracy": 0.9, "format": 0.1, "visual_perception": 0.7, "repetition": 1.0}
FORMAT = "Put the reasoning between <think> and </think> and the answer between <answer> and </answer>."


def make(
    folder: Path, *, steps: int = 60, prompts: int = 8, samples: int = 8, problems: int = 120, boxes: bool = False
) -> RunDirectory:
    """Write a whole run into ``folder`` and return it; with ``boxes`` every third problem asks for one."""
    run = RunDirectory(folder.absolute())
    run.create()
    rng = random.Random(7)
    scenes = [_scene(run, rng, k) for k in range(max(problems, 40))]
    if boxes:
        scenes = [_grounded(scene) if k % 3 == 1 else scene for k, scene in enumerate(scenes)]
    _plan(run)
    _ledger(run, steps)
    _training(run, rng, scenes, steps, prompts, samples)
    _evaluation(run, rng, scenes[:problems])
    _checkpoints(run, steps)
    judge = run.path / "models" / "judge"
    judge.mkdir(parents=True)
    write_json(judge / "judge.json", {"balanced_accuracy": 0.985, "cases": 400, "true_positive_rate": 0.98})
    write_json(run.outputs / "tiny.json", {"judge": str(judge)})
    return run


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sample(name: str, *, correct: bool | None, perception: float | None = 0.5, response: str = "") -> dict[str, Any]:
    """Return one line of an evaluation's samples."""
    return {
        "id": name,
        "images": [],
        "prompt": f"<image>Problem {name}",
        "response": response or f"<answer>\\boxed{{{name}}}</answer>",
        "answer": name,
        "parts": {"accuracy": None if correct is None else float(correct), "visual_perception": perception},
        "correct": correct,
        "judge": None,
    }


def _scene(run: RunDirectory, rng: random.Random, number: int) -> dict[str, Any]:
    colour, shape, count = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.randint(1, 5)
    picture = Image.new("RGB", (112, 112), "white")
    draw = ImageDraw.Draw(picture)
    for k in range(count):
        x, y = 8 + 36 * (k % 3), 14 + 44 * (k // 3)
        _draw(draw, shape, x, y, COLOURS[colour])
    file = io.BytesIO()
    picture.save(file, "PNG")
    name = f"images/{hashlib.sha256(file.getvalue()).hexdigest()[:16]}.png"
    (run.path / "images").mkdir(exist_ok=True)
    (run.path / name).write_bytes(file.getvalue())
    return {
        "id": f"scene-{number:04d}",
        "prompt": f"<image>How many {colour} {shape}s are there? {FORMAT}",
        "images": [name],
        "answer": str(count),
        "visual_key_info": f"<info1>there are {count} shapes</info1>\n<info2>every shape is a {colour} {shape}</info2>",
        "kind": "math",
        "target": None,
        "text": (colour, shape, count),
    }


def _grounded(scene: dict[str, Any]) -> dict[str, Any]:
    """Return the scene as a problem whose answer is the box of its first shape."""
    colour, shape, _ = scene["text"]
    target = Target(space=Space(system="pixel", width_px=112, height_px=112), boxes=((8.0, 14.0, 34.0, 40.0),))
    prompt = f"<image>Where is the first {colour} {shape}? {FORMAT}"
    return scene | {"prompt": prompt, "answer": "[8, 14, 34, 40]", "kind": "grounding", "target": target.to_json()}


def _box_rollout(rng: random.Random, scene: dict[str, Any], skill: float, step: int, k: int) -> dict[str, Any]:
    off = round(rng.gauss(0, 2 + 16 * (1 - skill)))
    row = _rollout(rng, scene, skill, step, k)
    said = (
        f"<think>\nIt is on the left.\n</think>\n<answer>\n[{8 + off}, {14 + off}, {34 + off}, {40 + off}]\n</answer>"
    )
    overlap = max(0.0, 26 - abs(off)) ** 2
    rewards = {"format": 1.0, "iou": overlap / (2 * 26 * 26 - overlap)}
    return row | {"response": said, "rewards": rewards, "total": sum(rewards.values()), "judge": None}


def _draw(draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, colour: str) -> None:
    if shape == "circle":
        draw.ellipse((x, y, x + 26, y + 26), fill=colour)
    elif shape == "square":
        draw.rectangle((x, y, x + 26, y + 26), fill=colour)
    else:
        draw.polygon([(x, y + 26), (x + 13, y), (x + 26, y + 26)], fill=colour)


def _plan(run: RunDirectory) -> None:
    role = {"kind": "batch", "needs": [], "after": [], "settings": {}}
    roles = [
        role | {"name": "tiny", "job": "tiny", "settings": {"seed": 1}},
        role | {"name": "judge", "job": "judge", "kind": "service", "after": ["tiny"]},
        role
        | {
            "name": "train",
            "job": "grpo",
            "needs": ["judge"],
            "after": ["tiny"],
            "settings": {"rewards": WEIGHTS, "steps": 60, "checkpoint": {"every_steps": 10}},
        },
        role
        | {
            "name": "eval",
            "job": "eval",
            "after": ["tiny", "train"],
            "settings": {"models": {"before": "{tiny.policy}", "after": "{train.model}"}, "seed": 1},
        },
    ]
    write_json(
        run.plan,
        {
            "name": run.name,
            "recipe": "recipes/geo3k-tiny.yaml",
            "recipe_sha256": "0" * 64,
            "cluster": "local",
            "executor": "local",
            "time_limit_s": 3600,
            "roles": roles,
            "schema": 1,
        },
    )


def _ledger(run: RunDirectory, steps: int) -> None:
    end = 180 + 3.4 * steps
    events: list[tuple[float, str, dict[str, Any]]] = [
        (0, "attempt_started", {"attempt": 1, "pid": 100, "host": "node1"}),
        (0.4, "role_started", {"role": "tiny", "replica": 0, "pid": 101}),
        (96, "role_finished", {"role": "tiny", "replica": 0, "exit_code": 0, "cause": "done"}),
        (96.3, "role_started", {"role": "judge", "replica": 0, "pid": 102}),
        (96.4, "role_started", {"role": "gateway", "replica": 0, "pid": 103}),
        (128, "service_ready", {"role": "judge", "replica": 0, "url": "http://127.0.0.1:40001/v1"}),
        (128.4, "role_started", {"role": "train", "replica": 0, "pid": 104}),
        (190, "role_finished", {"role": "train", "replica": 0, "exit_code": -9, "cause": "killed by SIGKILL"}),
        (190, "role_restarting", {"role": "train", "replica": 0, "in_s": 5.0, "restart": 1, "of": 3}),
        (195, "role_started", {"role": "train", "replica": 0, "pid": 105}),
        (197, "resumed", {"step": 10, "path": "step_00000010"}),
        (end, "role_finished", {"role": "train", "replica": 0, "exit_code": 0, "cause": "done"}),
        (end + 0.3, "role_started", {"role": "eval", "replica": 0, "pid": 106}),
        (end + 44, "role_finished", {"role": "eval", "replica": 0, "exit_code": 0, "cause": "done"}),
        (end + 45, "role_finished", {"role": "judge", "replica": 0, "exit_code": -15, "cause": "stopped (SIGTERM)"}),
        (end + 46, "run_finished", {"state": "SUCCEEDED", "cause": "", "diagnosis": ""}),
    ]
    saved = [(130 + 3.2 * s, "checkpoint_committed", {"step": s, "seconds": 0.3}) for s in range(10, steps + 1, 10)]
    lines = [
        {"at": START + at, "generation": 1, "event": event, **fields}
        for at, event, fields in sorted([*events, *saved], key=lambda known: known[0])
    ]
    write_lines(run.ledger, lines)


def _training(
    run: RunDirectory, rng: random.Random, scenes: list[dict[str, Any]], steps: int, prompts: int, samples: int
) -> None:
    metrics, rollouts = [], []
    for step in [*range(1, 13), *range(11, steps + 1)]:  # killed after step 12, resumed from the checkpoint of step 10
        skill = 1 / (1 + math.exp(-6 * (step / steps - 0.45)))
        dealt = [(scene, k) for scene in rng.sample(scenes, prompts) for k in range(samples)]
        rows = [(_box_rollout if scene["target"] else _rollout)(rng, scene, skill, step, k) for scene, k in dealt]
        rollouts += rows
        metrics.append(_metrics(rng, rows, skill, step, steps))
    write_lines(run.metrics, metrics)
    write_lines(run.rollouts, rollouts)


def _rollout(rng: random.Random, scene: dict[str, Any], skill: float, step: int, k: int) -> dict[str, Any]:
    colour, shape, count = scene["text"]
    right, formed, seen = rng.random() < 0.3 + 0.6 * skill, rng.random() < 0.5 + 0.5 * skill, rng.random() < skill
    said = count if right else count + 1
    thought = f"I see {said} shapes. Every shape is a {colour if seen else 'grey'} {shape}."
    answer = f"<answer>\n\\boxed{{{said}}}\n</answer>" if formed else f"\\boxed{{{said}}}"
    missing = rng.random() < 0.01
    rewards = {
        "accuracy": float(right),
        "format": float(formed),
        "visual_perception": None if missing else (right + seen) / 2,
        "repetition": -0.1 if rng.random() < 0.05 else 0.0,
    }
    total = None if missing else round(sum(WEIGHTS[p] * (v or 0.0) for p, v in rewards.items()), 4)
    verdict = f"<info1>{'yes' if right else 'no'}</info1>\n<info2>{'yes' if seen else 'no'}</info2>"
    return {
        "step": step,
        "id": scene["id"],
        "sample": k,
        "prompt": scene["prompt"],
        "images": scene["images"],
        "answer": scene["answer"],
        "visual_key_info": scene["visual_key_info"],
        "kind": scene["kind"],
        "target": scene["target"],
        "response": f"<think>\n{thought}\n</think>\n{answer}",
        "tokens": rng.randint(24, 64),
        "finish": "stop",
        "rewards": rewards,
        "total": total,
        "advantage": None if total is None else round(rng.gauss(0, 1), 4),
        "judge": {
            "reply": None if missing else verdict,
            "latency_s": round(rng.lognormvariate(-1.2, 0.4), 3),
            "cached": rng.random() < 0.1,
            "attempts": 2 if missing else 1,
            "missing": "no verdict within 10 s" if missing else None,
        },
    }


def _metrics(rng: random.Random, rows: list[dict[str, Any]], skill: float, step: int, steps: int) -> dict[str, Any]:
    totals = [row["total"] for row in rows if row["total"] is not None]
    means = {
        f"reward/{part}": math.fsum(v) / len(v)
        for part in ("accuracy", "format", "visual_perception", "repetition", "iou")
        if (v := [r["rewards"][part] for r in rows if r["rewards"].get(part) is not None])
    }
    gen, update = rng.uniform(1.3, 1.7), rng.uniform(0.7, 0.9)
    wait, save = rng.expovariate(8), 0.3 if step % 10 == 0 else 0.0
    return {
        "step": step,
        "time": START + 130 + 3.2 * step,
        "critic/score/mean": sum(totals) / len(totals),
        "critic/rewards/mean": sum(totals) / len(totals),
        "critic/rewards/min": min(totals),
        "critic/rewards/max": max(totals),
        "critic/advantages/mean": 0.0,
        "actor/pg_loss": rng.gauss(-0.01, 0.02),
        "actor/pg_clipfrac": 0.0,
        "actor/grad_norm": rng.lognormvariate(-0.2, 0.35),
        "actor/lr": 1e-3 * min(1, step / (0.05 * steps)),
        "actor/entropy": 1.1 - 0.7 * skill + rng.gauss(0, 0.04),
        "response_length/mean": sum(row["tokens"] for row in rows) / len(rows),
        "response_length/clip_ratio": 0.08 * (1 - skill) * rng.random(),
        "timing_s/gen": gen,
        "timing_s/update_actor": update,
        "timing_s/save_checkpoint": save,
        "timing_s/step": gen + update + wait + save + 0.15,
        "perf/throughput": rng.gauss(900, 40),
        "judge/latency_p50": rng.uniform(0.25, 0.32),
        "judge/latency_p95": rng.uniform(0.5, 0.9),
        "judge/latency_max": 1.2,
        "judge/nan_frac": sum(row["total"] is None for row in rows) / len(rows),
        "judge/retry_frac": 0.01 * rng.random(),
        "judge/cache_hit": 0.1 + 0.15 * skill + rng.gauss(0, 0.02),
        "judge/wait_after_gen_s": wait,
        **means,
    }


def _evaluation(run: RunDirectory, rng: random.Random, scenes: list[dict[str, Any]]) -> None:
    for label, skill in (("before", 0.2), ("after", 0.93)):
        folder = run.eval / label / "geometry3k"
        rows = [_answered(rng, scene, skill) for scene in scenes]
        write_lines(folder / "samples.jsonl", rows)
        right = sum(bool(row["correct"]) for row in rows)
        write_json(
            folder / "summary.json", {"n": len(rows), "correct": right, "accuracy": right / len(rows), "seed": 1}
        )


def _answered(rng: random.Random, scene: dict[str, Any], skill: float) -> dict[str, Any]:
    row = _rollout(rng, scene, skill, 0, 0)
    kept = {key: row[key] for key in ("id", "prompt", "images", "answer", "response")}
    parts = row["rewards"]
    return kept | {"parts": parts, "correct": parts["accuracy"] > 0, "judge": row["judge"], "latency_s": 0.2}


def _checkpoints(run: RunDirectory, steps: int) -> None:
    for step in range(10, steps + 1, 10):
        folder = run.checkpoints / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(40_000))
        write_json(folder / "MANIFEST.json", {"step": step, "files": {}})


if __name__ == "__main__":
    make(Path(sys.argv[1]))
