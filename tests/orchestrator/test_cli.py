from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import cli, control, ledger
from orchestrator.run_directory import RunDirectory
from tests.orchestrator import runs
from tests.orchestrator.runs import log, tell

RECIPE = """\
name: a
roles:
  one: {job: command, with: {argv: [echo, hello], outputs: {word: hello}}}
  two: {job: command, after: one, with: {argv: [echo, "{one.word}", again]}}
time_limit: 5m
"""
TIMEOUT_S = 60

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("ORCH_CLUSTER", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def orchestrator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    """Run the command line in this process; returns exit code, output and talk."""
    before = signal.getsignal(signal.SIGINT)

    def invoke(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return code or 0, captured.out, captured.err

    yield invoke
    signal.signal(signal.SIGINT, before)


def write(folder: Path, text: str = RECIPE, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        pytest.param(RECIPE + "nme: b\n", [], "r.yaml:6: nme: No such key. Did you mean 'name'?", id="unknown key"),
        pytest.param(
            RECIPE.replace("argv: [echo, hello]", "argv: 3"),
            [],
            "r.yaml:3: roles.one.with.argv: Input should be a valid tuple, got 3.",
            id="wrong type",
        ),
        pytest.param(
            RECIPE.replace("[echo, hello]", "[no-such-program]"),
            [],
            "r.yaml:3: roles.one.with.argv: There is no program 'no-such-program'.",
            id="missing program",
        ),
        pytest.param(
            RECIPE,
            ["roles.one.nodes=2"],
            "override 'roles.one.nodes=2': roles.one.nodes: The role asks for 2 nodes; this is one machine.",
            id="impossible resources",
        ),
        pytest.param(RECIPE + "name: b\n", [], "r.yaml:6: the key 'name' is already set at", id="duplicate key"),
        pytest.param(BOMB, [], "more than 20000 values once its aliases are followed", id="alias bomb"),
        pytest.param("[" * 20_000, [], "nested more than 40 levels deep", id="nesting bomb"),
        pytest.param("", [], "r.yaml:1: is empty.", id="empty file"),
        pytest.param(
            RECIPE.replace("job: command, after", "job: comand, after"),
            [],
            "r.yaml:4: roles.two.job: There is no job 'comand'. Did you mean 'command'?",
            id="not a job",
        ),
        pytest.param(
            RECIPE,
            ["one.agv=1"],
            "override 'one.agv=1': roles.one.with.agv: No such key. Did you mean 'argv'?",
            id="override",
        ),
        pytest.param(RECIPE, ["--cluster", "nowhere"], "--cluster: there is no profile", id="unknown profile"),
        pytest.param(RECIPE, ["--run-name", "../x"], "'../x' is not a run's name", id="a name that leaves the folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    orchestrator: Invoke, tmp_path: Path, root: Path, text: str, arguments: list[str], message: str
) -> None:
    code, out, talk = orchestrator("submit", write(tmp_path, text), *arguments)

    assert (code, out) == (2, "")
    assert talk.startswith("error: ")
    assert message in talk
    assert not root.exists()


def test_problems_of_recipe_and_jobs_are_told_together_in_the_order_of_the_file(
    orchestrator: Invoke, tmp_path: Path
) -> None:
    text = RECIPE.replace("argv: [echo, hello]", "agv: [ls]").replace("5m", "5")

    code, _, talk = orchestrator("validate", write(tmp_path, text))

    assert code == 2
    assert talk.replace(f"{tmp_path}/", "") == (
        "error: r.yaml: 3 problems.\n"
        "  r.yaml:3: roles.one.with.argv: The key is missing.\n"
        "  r.yaml:3: roles.one.with.agv: No such key. Did you mean 'argv'?\n"
        "  r.yaml:5: time_limit: 5 has no unit. Write '24:00:00', '2-00:00:00', '90m' or '1d12h'.\n"
    )


def test_a_recipe_that_does_not_exist_answers_with_those_that_do(orchestrator: Invoke, tmp_path: Path) -> None:
    write(tmp_path, name="geo3k.yaml")

    code, _, talk = orchestrator("submit", tmp_path / "geo3.yaml")

    assert code == 4
    assert talk.replace(f"{tmp_path}/", "") == (
        "error: geo3.yaml: there is no such recipe. Did you mean 'geo3k.yaml'?\n"
    )


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "resume", "report"])
def test_a_run_that_does_not_exist_is_not_found(orchestrator: Invoke, root: Path, verb: str) -> None:
    runs.make(root, "other")

    code, _, talk = orchestrator(verb, "none")

    assert code == 4
    assert talk == f"error: run: no run 'none' in {root}. Runs there: other.\n"


def test_validate_warns_of_what_this_machine_cannot_run(orchestrator: Invoke, tmp_path: Path) -> None:
    code, out, talk = orchestrator("validate", write(tmp_path), "roles.one.nodes=2")

    assert (code, out) == (0, "")
    assert "warning: this machine cannot run it: override 'roles.one.nodes=2': roles.one.nodes: The role asks" in talk
    assert talk.endswith("r.yaml: valid. Roles: one, two. Cluster profile: local.\n")


def test_validate_shows_who_set_each_value(orchestrator: Invoke, tmp_path: Path) -> None:
    base = write(tmp_path, name="base.yaml")
    path = write(tmp_path, "extends: base.yaml\nname: b\n")

    _, out, _ = orchestrator("validate", path, "two.environment.A=1", "--show")

    lines = out.replace(f"{tmp_path}/", "").splitlines()
    assert base.exists()
    assert 'name = "b"  # r.yaml:2' in lines
    assert 'roles.one.job = "command"  # base.yaml:3' in lines
    assert "roles.two.environment.A = 1  # override 'two.environment.A=1'" in lines


def test_a_dry_run_prints_what_submit_writes_and_does_nothing(orchestrator: Invoke, tmp_path: Path, root: Path) -> None:
    from orchestrator import inspection, submission, validation

    path = write(tmp_path)
    code, out, talk = orchestrator("submit", path, "--dry-run")
    assert code == 0
    assert not root.exists()
    assert "Dry run: nothing was written, nothing was started." in talk

    checked = validation.check(path, [], None, inspection.checkout())
    run = submission.create(checked, inspection.checkout(), run_name=None, force_new=False)
    assert (
        out == f"# {run.plan}\n{run.plan.read_text()}\n# {run.path}/submit.sh\n{(run.path / 'submit.sh').read_text()}"
    )


def test_a_dry_run_prints_json(orchestrator: Invoke, tmp_path: Path) -> None:
    _, out, _ = orchestrator("submit", write(tmp_path), "--dry-run", "--json", "--run-name", "mine")

    shown = json.loads(out)
    assert shown["plan"]["name"] == "mine"
    assert list(shown["scripts"]) == ["submit.sh"]
    assert shown["scripts"]["submit.sh"].endswith("/runs/mine\n")


def test_render_prints_the_script_and_nothing_else(orchestrator: Invoke, tmp_path: Path) -> None:
    code, out, talk = orchestrator("render", write(tmp_path))

    assert (code, talk) == (0, "")
    assert out.startswith("#!/usr/bin/env bash\n")


PAIR = """\
name: a
roles:
  judge: {job: judge, gpus_per_node: 1, replicas: 2, with: {model: some/model}}
  two: {job: command, needs: judge, with: {argv: [echo, again]}}
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the shipped example the profile that is used when none is named."""
    monkeypatch.setenv("ORCH_CLUSTER", "example-slurm")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("placement", ["auto", "pair"])
def test_for_slurm_too_a_dry_run_prints_what_submit_writes(
    orchestrator: Invoke, tmp_path: Path, root: Path, placement: str
) -> None:
    from orchestrator import inspection, submission, validation

    path, change = write(tmp_path, PAIR), f"placement={placement}"
    code, out, _ = orchestrator("submit", path, change, "--dry-run")
    assert (code, root.exists()) == (0, False)

    checked = validation.check(path, [change], None, inspection.checkout())
    run = submission.create(checked, inspection.checkout(), run_name=None, force_new=False)
    written = ["plan.json", "submit.sbatch", *(["submit-judge.sbatch"] if placement == "pair" else [])]
    assert out == "\n".join(f"# {run.path / name}\n{(run.path / name).read_text()}" for name in written)


@pytest.mark.usefixtures("cluster")
def test_a_dry_run_says_in_words_what_runs_where_and_why(orchestrator: Invoke, tmp_path: Path) -> None:
    _, _, talk = orchestrator("submit", write(tmp_path, PAIR), "two.slurm.qos=low", "--dry-run")

    lines = [line for line in talk.splitlines() if not line.startswith("warning:")]
    assert lines == [
        "  two: 1 node with 0 GPUs, partition gpu, account my-project, qos low",
        "    two: batch command, 0 GPUs, after judge",
        "  judge: 2 nodes with 1 GPUs, partition gpu, account my-project",
        "    judge: service judge, 2 x 1 GPUs",
        "Placement: hetjob. two and judge need nodes of different kinds at the same time: qos low for two and none for "
        "judge; gpus_per_node 0 for two and 1 for judge.",
        "Dry run: nothing was written, nothing was started.",
    ]


@pytest.mark.usefixtures("cluster")
def test_a_service_elsewhere_is_shown_with_its_address(orchestrator: Invoke, tmp_path: Path) -> None:
    _, out, talk = orchestrator("submit", write(tmp_path, PAIR), "judge.url=https://h:1/v1", "--dry-run")

    assert "  judge: service at https://h:1/v1\n" in talk
    assert "Placement: external." in talk
    assert "hetjob" not in out


@pytest.mark.usefixtures("cluster")
def test_render_prints_a_script_that_sbatch_takes_as_it_is(orchestrator: Invoke, tmp_path: Path) -> None:
    code, out, talk = orchestrator("render", write(tmp_path, PAIR))

    assert (code, talk) == (0, "")
    assert out.startswith("#!/bin/bash\n")
    assert out.count("#SBATCH hetjob\n") == 1


@pytest.mark.usefixtures("cluster")
def test_render_names_each_script_of_a_pair(orchestrator: Invoke, tmp_path: Path) -> None:
    _, out, _ = orchestrator("render", write(tmp_path, PAIR), "placement=pair")

    assert [line for line in out.splitlines() if line.startswith("# submit")] == [
        "# submit.sbatch",
        "# submit-judge.sbatch",
    ]


def test_a_run_directory_in_use_is_a_conflict(orchestrator: Invoke, tmp_path: Path, root: Path) -> None:
    run = runs.make(root, "a")
    tell(run, 1, "run_finished", state="SUCCEEDED", cause="", diagnosis="")
    before = run.ledger.read_text()

    code, _, talk = orchestrator("submit", write(tmp_path))

    assert code == 3
    assert talk.startswith("error: run: a has already SUCCEEDED. To run again, start another with --force-new")
    assert run.ledger.read_text() == before


def finished(root: Path, name: str = "a") -> RunDirectory:
    run = runs.make(root, name)
    tell(run, 1, "attempt_started", attempt=1, host="here", pid=1, at=100.0)
    tell(run, 1, "role_finished", role="train", replica=0, exit_code=1, cause="exit code 1", at=110.0)
    diagnosis = "train: ValueError: no reward (attempts/1/train.log:3)"
    tell(run, 1, "run_finished", state="FAILED", cause="train failed.", diagnosis=diagnosis, at=161.0)
    return run


def test_status_ends_with_the_cause_and_the_way_out(orchestrator: Invoke, root: Path) -> None:
    run = finished(root)

    code, out, _ = orchestrator("status", "a")

    assert code == 0
    assert out == (
        "a FAILED after 1:01. train failed.\n"
        "The earliest error:\n"
        "train: ValueError: no reward (attempts/1/train.log:3)\n"
        f"Logs: {run.path}/attempts/1\n"
        "Continue with: python -m orchestrator resume a\n"
        "  tiny: waiting\n"
        "  judge: waiting\n"
        "  train: failed: exit code 1\n"
    )


def test_status_without_a_name_shows_the_newest(orchestrator: Invoke, root: Path) -> None:
    os.utime(runs.make(root, "old").plan, (1, 1))
    finished(root, "new")

    _, out, _ = orchestrator("status", "--json")

    assert json.loads(out)["name"] == "new"


def test_list_shows_all_runs_the_newest_first(orchestrator: Invoke, root: Path) -> None:
    os.utime(finished(root, "old").plan, (1, 1))
    finished(root, "new")

    _, out, _ = orchestrator("list")
    _, as_json, _ = orchestrator("list", "--json")

    assert [line.split()[:2] for line in out.splitlines()] == [["new", "FAILED"], ["old", "FAILED"]]
    assert [run["name"] for run in json.loads(as_json)["runs"]] == ["new", "old"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_damaged_run_hides_no_other(orchestrator: Invoke, root: Path, text: str) -> None:
    finished(root, "good")
    damaged = runs.make(root, "damaged").plan
    damaged.write_text(text)

    code, out, talk = orchestrator("list")
    assert (code, out.split()[0]) == (0, "good")
    assert talk.startswith(f"warning: {damaged}: is not a plan that this version reads: ")

    code, _, talk = orchestrator("status", "damaged")
    assert code == 2
    assert talk.startswith(f"error: {damaged}: is not a plan that this version reads: ")


def test_without_runs_the_list_is_empty(orchestrator: Invoke, root: Path) -> None:
    code, out, talk = orchestrator("list")

    assert (code, out, talk) == (0, "", f"No runs in {root}.\n")


def test_logs_name_their_role_unless_asked_for_one(orchestrator: Invoke, root: Path) -> None:
    run = finished(root)
    log(run, 1, "train", "step 1\n")
    log(run, 1, "judge-0", "up\n")

    assert orchestrator("logs", "a")[1] == "judge-0 | up\ntrain | step 1\n"
    assert orchestrator("logs", "a", "--role", "train", "-f")[1] == "step 1\n"
    assert orchestrator("logs", "a", "--role", "judge", "--json")[1] == (
        '{"attempt": 1, "source": "judge-0", "text": "up"}\n'
    )


def test_what_is_not_running_cannot_be_cancelled(orchestrator: Invoke, root: Path) -> None:
    finished(root)

    code, _, talk = orchestrator("cancel", "a")

    assert (code, talk) == (3, "error: run: a is FAILED, so there is nothing to cancel.\n")


def test_a_run_that_has_succeeded_is_not_continued(orchestrator: Invoke, root: Path) -> None:
    run = runs.make(root)
    tell(run, 1, "run_finished", state="SUCCEEDED", cause="", diagnosis="")

    code, _, talk = orchestrator("resume", "a")

    assert (code, talk) == (0, "a has succeeded already; there is nothing to continue.\n")


def test_the_schema_is_json(orchestrator: Invoke) -> None:
    _, out, _ = orchestrator("schema")

    assert "roles" in json.loads(out)["properties"]


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        pytest.param(["--help"], [], id="help"),
        pytest.param(["list"], [], id="list"),
        pytest.param(["status", "a"], [], id="status"),
        pytest.param(["status", "a", "--json"], [], id="status --json"),
        pytest.param(["submit", "r.yaml", "--dry-run"], ["pydantic", "yaml"], id="dry run"),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(
    root: Path, tmp_path: Path, arguments: list[str], allowed: list[str]
) -> None:
    runs.make(root)
    write(tmp_path)
    heavy = ["pydantic", "yaml", "rich", "typer", "submitit", "torch", "numpy", "ray", "vllm", "openai", "aiohttp"]
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['orchestrator', *{arguments!r}]\n"
        "from orchestrator.cli import main\nmain()\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True, cwd=tmp_path
    )

    assert ended.stderr.splitlines()[-1] == repr(allowed)


def test_plugins_of_pydantic_are_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("raise SystemExit('a plugin was loaded')")
    (tmp_path / "loud-1.dist-info").mkdir()
    (tmp_path / "loud-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    (tmp_path / "loud-1.dist-info/entry_points.txt").write_text("[pydantic]\nloud = loud\n")
    command = [sys.executable, "-m", "orchestrator", "submit", str(write(tmp_path)), "--dry-run"]

    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )

    assert "a plugin was loaded" not in ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"), [(["schema"], 0), (["status", "nothing"], 4)], ids=["a long output", "an error"]
)
def test_all_that_is_said_arrives_before_the_process_ends(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=buffered)

    assert ended.returncode == code
    assert ended.stdout.endswith("}\n") == (code == 0)
    assert ended.stderr.startswith("error: ") == (code != 0)


def test_a_run_may_be_called_as_a_folder_is(
    orchestrator: Invoke, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make(root, "jobs")
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)

    code, out, _ = orchestrator("status", "jobs")

    assert (code, out.split()[0]) == (0, "jobs")


# A real run, started by the real executor. Each takes a few seconds.


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_event(run: RunDirectory, name: str) -> ledger.Event:
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        found = [event for event in ledger.read(run.ledger) if event.event == name]
        if found:
            return found[0]
        time.sleep(0.05)
    raise TimeoutError(f"waited {TIMEOUT_S} s for {name} in {run.ledger}")


@pytest.mark.slow
def test_a_run_is_followed_to_its_end(root: Path, tmp_path: Path) -> None:
    out, talk = (watching := start("submit", write(tmp_path), "--follow")).communicate(timeout=TIMEOUT_S)

    assert watching.returncode == 0
    assert out == f"Run a started in {root}/a\n"
    assert "one ended: done" in talk
    assert "a SUCCEEDED after" in talk
    assert (root / "a/attempts/1/two.log").read_text().startswith("hello again\n")


@pytest.mark.slow
def test_ctrl_c_drains_and_resume_continues(root: Path, tmp_path: Path) -> None:
    script = f"[ -e {tmp_path}/seen ] || {{ touch {tmp_path}/seen; exec sleep 60; }}"
    text = f"name: a\nroles:\n  one: {{job: command, with: {{argv: [sh, -c, '{script}']}}}}\n"
    watching = start("submit", write(tmp_path, text), "--follow")
    run = RunDirectory(root / "a")
    wait_for_event(run, "role_started")
    while not (tmp_path / "seen").exists():
        time.sleep(0.05)

    watching.send_signal(signal.SIGINT)
    _, talk = watching.communicate(timeout=TIMEOUT_S)

    assert watching.returncode == 5
    assert "Asked a to save and end" in talk
    assert "a CANCELLED after" in talk
    assert control.state(run).pid is None

    again = start("resume", "a", "--follow")
    again.communicate(timeout=TIMEOUT_S)
    assert again.returncode == 0
    assert control.state(run).attempt == 2


@pytest.mark.slow
def test_a_supervisor_that_vanishes_is_told_with_the_way_out(root: Path, tmp_path: Path) -> None:
    text = "name: a\nroles:\n  one: {job: command, drain_s: 1, with: {argv: [sleep, '60']}}\n"
    watching = start("submit", write(tmp_path, text), "--follow")
    run = RunDirectory(root / "a")
    wait_for_event(run, "role_started")

    os.kill(wait_for_event(run, "attempt_started").fields["pid"], signal.SIGKILL)
    _, talk = watching.communicate(timeout=TIMEOUT_S)

    assert watching.returncode == 1
    assert "a LOST after" in talk
    assert "Continue with: python -m orchestrator resume a" in talk
