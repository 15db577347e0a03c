"""The whole builder, with models of almost no training: what it leaves, and that the second time is free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import data, vlm
from jobs.data.scenes import registry
from jobs.entry import Drain
from jobs.sft import conversations
from jobs.tiny import training
from jobs.tiny.training import Training
from orchestrator.errors import RunFailed
from orchestrator.files import read_json
from orchestrator.progress import Progress

CHECKOUT = Path(__file__).resolve().parents[3]
ALMOST_NOTHING = """
train: 3
test: 2
policy: {hidden: 32, layers: 1, examples: 4, steps: 2, batch: 2, warmup_steps: 0}
judge: {hidden: 32, layers: 1, examples: 20, steps: 2, batch: 2, warmup_steps: 0}
judge_cases: 50
judge_accuracy_min: 0
"""


def build(folder: Path, out: str, settings: str = ALMOST_NOTHING) -> dict[str, str]:
    (folder / "tiny.yaml").write_text(settings)
    command = [sys.executable, "-m", "jobs.tiny", "--settings", str(folder / "tiny.yaml"), "--out", str(folder / out)]
    environment = {**os.environ, "ORCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    outputs: dict[str, str] = read_json(folder / out / "outputs" / "tiny.json")  # type: ignore[assignment]
    return outputs


@pytest.mark.slow
def test_it_makes_everything_once(tmp_path: Path) -> None:
    first = build(tmp_path, "one")
    started = time.monotonic()
    second = build(tmp_path, "two")
    took_s = time.monotonic() - started

    assert first == second
    assert took_s < 10
    assert len(data.load("geo3k", Path(first["train_data"]))) == 3
    assert len(data.load("geo3k", Path(first["test_data"]))) == 2
    assert type(vlm.load_model(first["policy"])).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(vlm.load_model(first["judge"])).__name__ == "Qwen2ForCausalLM"
    quality = read_json(Path(first["judge"]) / "judge.json")
    assert quality is not None
    assert quality["cases"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("task", registry.TASKS)
def test_other_tasks_have_data_of_their_own_and_no_judge(task: str, tmp_path: Path) -> None:
    policy = "{hidden: 32, layers: 1, examples: 4, steps: 2, batch: 2, warmup_steps: 0}"
    made = build(tmp_path, "out", f'{{task: {task}, train: 3, test: 2, format_prompt: "", policy: {policy}}}')

    examples = data.load("examples", Path(made["train_data"]))
    right = conversations.load(Path(made["sft_data"]))
    processor = vlm.load_processor(made["policy"])
    reply = vlm.tokenizer(processor)(right[0].response)["input_ids"]

    assert set(made) == {"policy", "base", "train_data", "test_data", "sft_data"}
    assert [example.kind for example in examples] == [task] * 3
    assert len(data.load("examples", Path(made["test_data"]))) == 2
    assert [conversation.images for conversation in right] == [example.images for example in examples]
    assert type(vlm.load_model(made["policy"])).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert vlm.decode(processor, reply, keep_special=True) == right[0].response
    assert len(reply) < 60


def test_a_failed_training_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    settings = {"model": "none", "path": str(tmp_path / "none.jsonl"), "steps": 1}

    with pytest.raises(RunFailed, match=r"(?s)Training the judge ended with exit code 4\..*no such file of examples"):
        training.run(
            [Training(name="judge", settings=settings, out=tmp_path / "judge")],
            Progress(tmp_path / "progress", "tiny"),
            Drain(),
            timeout_s=60,
        )


def test_a_drain_stops_the_trainings(tmp_path: Path) -> None:
    drain = Drain()
    drain.requested = True
    job = Training(name="judge", settings={"model": "none", "path": "none.jsonl", "steps": 1}, out=tmp_path / "judge")

    assert not training.run([job], Progress(tmp_path / "progress", "tiny"), drain, timeout_s=60)
