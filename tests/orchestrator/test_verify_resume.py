"""What ``verify-resume`` runs, compares and certifies, on runs made by hand."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli, inspection, ledger, plan, validation
from orchestrator.errors import InputError
from orchestrator.plan import Role
from orchestrator.recipe import Recipe
from orchestrator.run_directory import RunDirectory
from orchestrator.submission import Checked
from orchestrator.verify_resume import aftermath, certificate, comparison, promise, proof, strike
from orchestrator.verify_resume.certificate import Evidence
from orchestrator.verify_resume.comparison import Check
from orchestrator.verify_resume.disturbance import Blow
from orchestrator.verify_resume.kills import Kill, Point
from orchestrator.verify_resume.promise import Promise
from tests.orchestrator import runs
from tests.orchestrator.runs import tell

TOTAL = 3
EVERYTHING = Promise(bits=True, order=True)
WITHOUT_BITS = Promise(bits=False, order=True, because=("engine.name is vllm.",))


# Runs made by hand.


def rollout(step: int, sample: int) -> dict[str, Any]:
    return {
        "step": step,
        "id": f"row-{step}",
        "sample": sample,
        "response": f"answer {sample}",
        "tokens": 7,
        "finish": "stop",
        "rewards": {"accuracy": 0.1 * sample, "visual_perception": 0.5},
        "total": 0.5 + 0.1 * sample,
        "advantage": 0.25,
        "judge": {"reply": "yes", "latency_s": time.time(), "cached": False, "attempts": 1, "missing": ""},
    }


def metric(step: int) -> dict[str, Any]:
    return {"step": step, "time": time.time(), "actor/pg_loss": 0.1 * step, "timing_s/step": time.time()}


def tensors(**values: Sequence[int]) -> bytes:
    """Return bytes as a safetensors file of 8-bit tensors."""
    header, body = {}, b""
    for name, content in values.items():
        span = [len(body), len(body) + len(content)]
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": span}
        body += bytes(content)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def save(run: RunDirectory, step: int, files: dict[str, bytes]) -> None:
    folder = run.checkpoints / f"step_{step:08d}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    (folder / "MANIFEST.json").write_text(json.dumps({"step": step, "generation": 1, "files": manifest}))


FILES = {
    "model/config.json": b"{}",
    "model/model.safetensors": tensors(embed=[1, 2, 3], head=[4, 5]),
    "optimizer/exp_avg.safetensors": tensors(embed=[0, 0, 1]),
    "state.json": b"{}",
}


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def finished(root: Path, name: str) -> RunDirectory:
    """Return a run as training leaves it, each call with other times."""
    run = runs.make(root, name)
    write_lines(run.metrics, [metric(step) for step in range(1, TOTAL + 1)])
    write_lines(run.rollouts, [rollout(step, sample) for step in range(1, TOTAL + 1) for sample in range(2)])
    write_lines(run.role("train") / "verdicts.jsonl", [{"key": key} for key in "abc"])
    save(run, TOTAL - 1, FILES | {"model/model.safetensors": b"an earlier step"})
    save(run, TOTAL, FILES)
    tell(run, 1, "attempt_started", attempt=1)
    tell(run, 1, "run_finished", state="SUCCEEDED", kind="done", cause="", diagnosis="")
    return run


@pytest.fixture
def straight(tmp_path: Path) -> RunDirectory:
    return finished(tmp_path, "straight")


@pytest.fixture
def killed(tmp_path: Path) -> RunDirectory:
    return finished(tmp_path, "killed")


def compared(straight: RunDirectory, killed: RunDirectory, promised: Promise = EVERYTHING) -> dict[str, Check]:
    found = comparison.compare(straight, killed, role="train", total=TOTAL, promise=promised)
    return {check.name: check for check in found}


def unequal(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.difference.what for name, check in checks.items() if check.difference is not None}


# What is compared.


def test_runs_that_differ_in_nothing_but_times_are_equal_in_every_respect(
    straight: RunDirectory, killed: RunDirectory
) -> None:
    checks = compared(straight, killed)

    assert unequal(checks) == {}
    assert list(checks) == [
        "steps, each once",
        "data order",
        "responses",
        "rewards",
        "metrics",
        "weights",
        "optimizer",
        "judge asked once",
    ]
    sha256 = hashlib.sha256(FILES["model/model.safetensors"]).hexdigest()
    assert checks["weights"].straight == checks["weights"].killed == {"model/model.safetensors": sha256}


def edit(path: Path, number: int, **changes: Any) -> None:
    """Change fields of one line of a file, or take it out (``drop``) or write it twice (``double``)."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if changes.pop("drop", False):
        del records[number - 1]
    elif changes.pop("double", False):
        records.insert(number, records[number - 1])
    else:
        records[number - 1] |= changes
    write_lines(path, records)


PLACE = "rollouts.jsonl:3 (step 2, row-2, sample 0)"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(
            lambda run: edit(run.rollouts, 3, id="row-9"),
            {"data order": f'{PLACE}: id is "row-2" in the undisturbed run and "row-9" in the killed.'},
            id="another prompt",
        ),
        pytest.param(
            lambda run: edit(run.rollouts, 3, response="no"),
            {"responses": f'{PLACE}: response is "answer 0" in the undisturbed run and "no" in the killed.'},
            id="another response",
        ),
        pytest.param(
            lambda run: edit(run.rollouts, 3, finish="length"),
            {"responses": f'{PLACE}: finish is "stop" in the undisturbed run and "length" in the killed.'},
            id="a response that was cut off",
        ),
        pytest.param(
            lambda run: edit(run.rollouts, 3, advantage=0.25000000000000006),
            {
                "rewards": f"{PLACE}: advantage is 0.25 in the undisturbed run and 0.25000000000000006 in the killed.",
            },
            id="the last bit of an advantage",
        ),
        pytest.param(
            lambda run: edit(run.rollouts, 3, total=None),
            {"rewards": f"{PLACE}: total is 0.5 in the undisturbed run and null in the killed."},
            id="a reward that is missing",
        ),
        pytest.param(
            lambda run: edit(run.metrics, 2, **{"actor/pg_loss": -0.0}),
            {"metrics": "metrics.jsonl, step 2: actor/pg_loss is 0.2 in the undisturbed run and -0.0 in the killed."},
            id="another loss",
        ),
        pytest.param(
            lambda run: edit(run.metrics, 2, drop=True),
            {
                "steps, each once": "metrics.jsonl of killed has step 2 not at all.",
                "metrics": "metrics.jsonl, step 2: actor/pg_loss is 0.2 in the undisturbed run and "
                "0.30000000000000004 in the killed.",
            },
            id="a step that was lost",
        ),
        pytest.param(
            lambda run: edit(run.metrics, 3, double=True),
            {
                "steps, each once": "metrics.jsonl of killed has step 3 2 times.",
                "metrics": "metrics.jsonl of the undisturbed run is shorter.",
            },
            id="a step that was made twice",
        ),
        pytest.param(
            lambda run: save(run, TOTAL, FILES | {"model/model.safetensors": tensors(embed=[1, 2, 3], head=[4, 6])}),
            {"weights": "model/model.safetensors: tensor 'head' differs."},
            id="a weight",
        ),
        pytest.param(
            lambda run: save(run, TOTAL, FILES | {"model/model.safetensors": tensors(embed=[1, 2, 3], heads=[4, 5])}),
            {"weights": "model/model.safetensors: tensor 'head' is in one of the files only."},
            id="a tensor of another name",
        ),
        pytest.param(
            lambda run: save(run, TOTAL, FILES | {"model/model.safetensors": tensors(embed=[1, 2], head=[3, 4, 5])}),
            {"weights": "model/model.safetensors: tensor 'embed' has another type or shape."},
            id="another shape",
        ),
        pytest.param(
            lambda run: save(run, TOTAL, FILES | {"model/model-2.safetensors": tensors(x=[1])}),
            {"weights": "model/model-2.safetensors is missing in the last checkpoint of the undisturbed run."},
            id="a file of weights more",
        ),
        pytest.param(
            lambda run: save(run, TOTAL, FILES | {"optimizer/exp_avg.safetensors": tensors(embed=[0, 0, 2])}),
            {"optimizer": "optimizer/exp_avg.safetensors: tensor 'embed' differs."},
            id="a moment of the optimiser",
        ),
        pytest.param(
            lambda run: edit(run.role("train") / "verdicts.jsonl", 1, double=True),
            {
                "judge asked once": "verdicts.jsonl of killed has 1 answer(s) to questions that it had an answer to.",
            },
            id="a question asked again",
        ),
    ],
)
def test_every_difference_is_found_and_named(
    straight: RunDirectory, killed: RunDirectory, change: Callable[[RunDirectory], None], found: dict[str, str]
) -> None:
    change(killed)

    assert unequal(compared(straight, killed)) == found


def test_zero_and_minus_zero_are_not_the_same_bits(straight: RunDirectory, killed: RunDirectory) -> None:
    edit(straight.rollouts, 3, advantage=0.0)
    edit(killed.rollouts, 3, advantage=-0.0)

    assert set(unequal(compared(straight, killed))) == {"rewards"}


def test_prompts_in_another_order_are_found(straight: RunDirectory, killed: RunDirectory) -> None:
    records = [json.loads(line) for line in killed.rollouts.read_text().splitlines()]
    write_lines(killed.rollouts, [records[1], records[0], *records[2:]])

    assert "data order" in unequal(compared(straight, killed))


def test_a_file_that_ends_early_is_different_from_the_line_on_that_it_lacks(
    straight: RunDirectory, killed: RunDirectory
) -> None:
    edit(killed.rollouts, 6, drop=True)

    found = compared(straight, killed)["data order"].difference

    assert found is not None
    assert (found.step, found.what) == (3, "rollouts.jsonl of the killed run has 5 lines, and the other has more.")


def test_a_judge_that_answers_differently_is_named_as_the_cause(straight: RunDirectory, killed: RunDirectory) -> None:
    edit(killed.rollouts, 3, judge={"reply": "no"}, total=0.1)

    assert "The judge answered the same question differently" in unequal(compared(straight, killed))["rewards"]
    assert "--same-verdicts" in unequal(compared(straight, killed))["rewards"]


def test_a_run_without_a_checkpoint_or_records_is_not_equal_to_another_one(tmp_path: Path) -> None:
    empty = [runs.make(tmp_path, name) for name in ("straight", "killed")]

    found = unequal(compared(*empty))

    assert set(found) == {
        "steps, each once",
        "data order",
        "responses",
        "rewards",
        "weights",
        "optimizer",
    }
    assert found["weights"] == "no checkpoint has a file of the weights, so there was nothing to compare."


def test_last_checkpoints_of_an_earlier_step_are_no_proof(straight: RunDirectory, killed: RunDirectory) -> None:
    for run in (straight, killed):
        (run.checkpoints / f"step_{TOTAL:08d}" / "MANIFEST.json").unlink()

    assert unequal(compared(straight, killed))["optimizer"] == "the last checkpoints are of steps 2 and 2, not 3."


def test_what_is_not_promised_is_compared_and_may_differ(straight: RunDirectory, killed: RunDirectory) -> None:
    edit(killed.rollouts, 3, response="no")

    check = compared(straight, killed, WITHOUT_BITS)["responses"]

    assert check.difference is not None
    assert check.ok
    assert not compared(straight, killed)["responses"].ok


@pytest.mark.parametrize(
    ("changes", "bits", "order"),
    [
        pytest.param({}, True, True, id="as it comes"),
        pytest.param({"engine": {"name": "hf"}, "algorithm": {"staleness": 1, "refills": 2}}, True, True, id="hf"),
        pytest.param({"engine": {"name": "vllm"}}, False, True, id="vllm"),
        pytest.param({"engine": {"name": "vllm"}, "algorithm": {"refills": 2}}, False, False, id="vllm with refills"),
        pytest.param({"gpus": 1}, False, True, id="on GPUs"),
    ],
)
def test_what_is_promised_follows_from_the_settings(changes: dict[str, Any], bits: bool, order: bool) -> None:
    settings = dict(changes)
    role = Role(name="train", job="grpo", kind="batch", gpus_per_node=settings.pop("gpus", 0), settings=settings)

    found = promise.of(role)

    assert (found.bits, found.order) == (bits, order)
    assert bool(found.because) != bits


# The certificate.


def evidence(straight: RunDirectory, killed: RunDirectory, *, happened: bool = True) -> Evidence:
    kill = Kill(what="driver", step=2, phase="update")
    struck = strike.Struck(pid=7, name="the driver", signal="SIGKILL", host="here")
    blow = Blow(kill=kill, at=100.0, point=Point(step=2, phase="update"), struck=struck)
    return Evidence(
        plan=plan.load(killed.plan),
        overrides=("train.steps=3",),
        role="train",
        seed=1,
        straight=straight,
        killed=killed,
        blows=[blow if happened else Blow(kill=kill)],
        promise=EVERYTHING,
        checks=comparison.compare(straight, killed, role="train", total=TOTAL, promise=EVERYTHING),
        same_verdicts=False,
    )


def test_the_certificate_says_what_was_killed_what_was_compared_and_the_verdict(
    straight: RunDirectory, killed: RunDirectory
) -> None:
    tell(killed, 1, "role_started", role="train", pid=8, start=1.0, at=101.0)
    tell(killed, 1, "resumed", step=1, path="step_00000001", at=102.0)
    tell(killed, 1, "replayed", steps=[2], at=103.0)

    found = certificate.build(evidence(straight, killed))

    assert json.loads(json.dumps(found)) == found
    assert (found["schema"], found["verdict"], found["first_difference"]) == (1, "identical", None)
    assert found["recipe"] == {"path": "recipes/a.yaml", "sha256": "0" * 64, "overrides": ["train.steps=3"]}
    assert found["kills"][0] == {
        "planned": {"what": "driver", "step": 2, "phase": "update", "pick": 0},
        "happened": True,
        "at": 100.0,
        "step": 2,
        "phase": "update",
        "pid": 7,
        "name": "the driver",
        "signal": "SIGKILL",
        "host": "here",
        "resumed_from": 1,
        "replayed": [2],
    }
    assert found["judge"]["killed"] == {
        "judged": 6,
        "from_cache": 0,
        "requests": 6,
        "missing": 0,
        "questions": 3,
        "different": 3,
    }
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "torch" in found["versions"]


def test_the_table_shows_kills_checks_and_verdict(straight: RunDirectory, killed: RunDirectory) -> None:
    lines = certificate.table(certificate.build(evidence(straight, killed)))

    assert lines[0] == "killed: 3 steps, 1 kill(s), seed 1"
    assert lines[1] == ("  kill 1  driver     SIGKILL to the driver (pid 7) at step 2, update; resumed from step 0")
    assert "  steps, each once       3              3              equal" in lines
    assert lines[-1] == "Verdict: identical."


def test_a_step_that_is_collected_again_after_a_kill_is_found(killed: RunDirectory) -> None:
    blows = [
        Blow(kill=Kill(what="driver", step=step, phase="update"), at=at, point=Point(step=step, phase="update"))
        for step, at in ((3, 100.0), (5, 200.0))
    ]
    for at, name, fields in (
        (101.0, "resumed", {"step": 1}),
        (102.0, "replayed", {"steps": [2]}),
        (201.0, "role_started", {"role": "train"}),
        (202.0, "resumed", {"step": 2}),
        (203.0, "replayed", {"steps": [3]}),
    ):
        tell(killed, 1, name, at=at, **fields)

    found = aftermath.collected_once(blows, ledger.read(killed.ledger))

    assert found.difference is not None
    assert found.killed == 1
    what = "After kill 2 step 4 was generated and judged again, though it had been made before."
    assert (found.difference.step, found.difference.what) == (4, what)
    assert aftermath.collected_once(blows[:1], ledger.read(killed.ledger)).difference is None


def test_the_earliest_difference_is_told_first(straight: RunDirectory, killed: RunDirectory) -> None:
    edit(killed.rollouts, 5, response="no")
    edit(killed.metrics, 2, **{"actor/pg_loss": 9.0})

    found = certificate.build(evidence(straight, killed))

    assert found["verdict"] == "different"
    assert found["first_difference"].startswith("metrics.jsonl, step 2: actor/pg_loss")


def test_a_kill_that_did_not_happen_proves_nothing(straight: RunDirectory, killed: RunDirectory) -> None:
    found = certificate.build(evidence(straight, killed, happened=False))

    assert found["verdict"] == "incomplete"
    assert found["first_difference"] == "Kill 1 of 1 (driver, step 2, update) did not happen before the run ended."
    assert "  kill 1  driver     step 2, update: did not happen" in certificate.table(found)


def test_a_killed_run_that_did_not_come_back_is_different(straight: RunDirectory, killed: RunDirectory) -> None:
    tell(killed, 2, "run_finished", state="CRASH_LOOP", kind="crash", cause="Again and again.", diagnosis="")

    found = certificate.build(evidence(straight, killed))

    assert (found["verdict"], found["first_difference"]) == (
        "different",
        "killed ended as CRASH_LOOP. Again and again.",
    )


# What is run.


RECIPE = Recipe.model_validate(
    {
        "name": "a",
        "roles": {
            "tiny": {"job": "tiny"},
            "judge": {"job": "judge", "after": ["tiny"]},
            "train": {"job": "grpo", "needs": ["judge"], "on_failure": {"restart": 2}, "with": {"steps": 3}},
            "eval": {"job": "eval", "needs": ["judge"], "after": ["train"]},
            "other": {"job": "command"},
        },
    }
)


def test_training_and_what_it_needs_are_run() -> None:
    assert proof.trainer(RECIPE, "") == "train"
    assert proof.needed(RECIPE, "train") == {"tiny", "judge", "train"}


def test_a_recipe_without_a_single_training_role_asks_which_one_is_meant() -> None:
    bare = Recipe.model_validate({"name": "a", "roles": {"one": {"job": "command"}}})

    with pytest.raises(InputError, match=r"of the job 'grpo' are: none. Name the one to prove"):
        proof.trainer(bare, "")
    with pytest.raises(InputError, match=r"no role 'ona'. Did you mean 'one'"):
        proof.trainer(bare, "ona")


def test_more_kills_than_the_run_has_room_for_are_refused() -> None:
    role = Role(name="train", job="grpo", kind="batch")

    with pytest.raises(InputError, match=r"--kills: 3 kill\(s\) need more than 3 steps, and the run has 3"):
        proof.schedule(proof.Order(kills=3), role, 3)


def test_the_killed_run_can_be_given_the_verdicts_of_the_other(straight: RunDirectory, tmp_path: Path) -> None:
    other = runs.make(tmp_path, "other")

    proof.hand_on_verdicts(straight, other, "train")

    assert comparison.judge_questions(other, "train") == {"questions": 3, "different": 3}


COMMANDS = """\
name: a
roles:
  one: {job: command, with: {argv: [echo, hello], outputs: {word: hello}}}
  two: {job: command, after: one, with: {argv: [echo, "{one.word}"]}}
time_limit: 5m
"""


def checked(folder: Path, cluster: str, *more: str) -> Checked:
    (folder / "r.yaml").write_text(COMMANDS)
    return validation.check(folder / "r.yaml", more, cluster, inspection.checkout())


def test_roles_that_are_not_needed_are_left_out_and_kills_cost_no_restarts(tmp_path: Path) -> None:
    added = proof.changes(checked(tmp_path, "local"), "one", 5)

    found = checked(tmp_path, "local", *added)

    assert added == ("roles.two=null", "roles.one.on_failure.restart=8", "restarts.without_progress=8")
    assert list(found.recipe.roles) == ["one"]
    assert found.recipe.roles["one"].on_failure.restart == 8


def test_a_slurm_cluster_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked(tmp_path, "local")
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(
        sys, "argv", ["-", "verify-resume", str(tmp_path / "r.yaml"), "--role", "one", "--cluster", "sandbox"]
    )
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(SystemExit) as ended:
        cli.main()

    signal.signal(signal.SIGINT, before)
    assert ended.value.code == 2
    assert "--cluster: 'sandbox' is a Slurm cluster" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
