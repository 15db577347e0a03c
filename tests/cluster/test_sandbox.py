from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.sandbox import Options, Sandbox, SandboxError, members
from cluster.sandbox.addresses import digest
from tests.cluster.jobs import ENDED, output, submit

pytestmark = pytest.mark.slow
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
# The checkout and its Python may lie where only root can read.
READ_ALL = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
CHECKOUT = Path(__file__).parents[2]
TINY = Options(nodes=2)


def test_nodes_have_names_addresses_and_gpus_of_their_own(sandbox: Sandbox) -> None:
    program = 'echo "$(hostname) $CUDA_VISIBLE_DEVICES"'

    done = sandbox.run(["srun", "-N4", "--gres=gpu:8", "sh", "-c", program], 20)

    gpus = ",".join(str(number) for number in range(8))
    assert sorted(done.stdout.splitlines()) == [f"n{number} {gpus}" for number in range(1, 5)], done.stderr
    assert len({node.ip for node in sandbox.nodes}) == 6


def test_a_node_reaches_another_by_name_and_the_machine_reaches_nodes(sandbox: Sandbox, folder: Path) -> None:
    server = "import socket; s = socket.create_server(('0.0.0.0', 7777)); print(len([s.accept() for _ in range(2)]))"
    client = "import socket, sys; socket.create_connection((sys.argv[1], 7777), 5)"
    job = submit(sandbox, folder, f'exec {sys.executable} -c "{server}"\n', ["--nodelist=n1"])
    sandbox.wait(job, ["RUNNING"], 20)
    time.sleep(0.5)
    reached = [
        sandbox.run([sys.executable, "-c", client, sandbox.node("n1").ip], 20),
        sandbox.run(["srun", "--nodelist=n2", sys.executable, "-c", client, "n1"], 20),
    ]

    assert [done.returncode for done in reached] == [0, 0], reached
    sandbox.wait(job, ["COMPLETED"], 10)
    assert output(folder, job) == "2\n"


def test_an_unknown_name_is_refused_at_once(sandbox: Sandbox) -> None:
    began = time.monotonic()

    done = sandbox.run(["srun", "-N1", "getent", "hosts", "nowhere.example"], 20)

    assert done.returncode != 0
    assert time.monotonic() - began < 5


def test_a_cut_node_works_on_unheard_and_comes_back(sandbox: Sandbox, folder: Path) -> None:
    job = submit(sandbox, folder, f"while :; do date +%s%N > {folder}/beat; sleep 0.1; done\n", ["--nodelist=n3"])
    _until(lambda: (folder / "beat").exists())
    node = sandbox.node("n3")

    node.cut()
    ended = sandbox.wait(job, ENDED, 60)
    before = (folder / "beat").read_text()
    _until(lambda: (folder / "beat").read_text() != before)
    node.heal()

    assert ended == "NODE_FAIL"
    _until(lambda: node.state == "IDLE", 90)


def test_a_killed_node_has_no_process_left_and_boots(sandbox: Sandbox, folder: Path) -> None:
    body = f"setsid sleep 4321 & : > {folder}/runs; exec sleep 4321\n"
    job = submit(sandbox, folder, body, ["--nodelist=n2"])
    _until(lambda: (folder / "runs").exists())
    node = sandbox.node("n2")

    running = len(node.processes())
    node.kill()
    dead = node.processes()
    node.boot()

    assert running >= 4  # slurmd, slurmstepd, two of the job
    assert dead == []
    assert sandbox.wait(job, ENDED, 90) == "NODE_FAIL"
    _until(lambda: node.state == "IDLE", 10)


def test_a_node_declared_down_stays_down_until_it_is_resumed(sandbox: Sandbox) -> None:
    node = sandbox.node("n5")

    node.down()
    time.sleep(2)
    down = node.state
    node.resume()
    node.resume()

    assert down == "DOWN"
    _until(lambda: node.state == "IDLE", 10)


def test_an_urgent_job_preempts_with_grace(sandbox: Sandbox, folder: Path) -> None:
    body = f"srun --overlap sh -c 'trap \"date +%s > {folder}/term\" TERM; while :; do sleep 0.1; done'\n"
    job = submit(sandbox, folder, f": > {folder}/runs\n{body}", ["--nodelist=n1", "--gres=gpu:8"])
    _until(lambda: (folder / "runs").exists())
    time.sleep(0.5)

    urgent = sandbox.preempt(["n1"], 1)

    _until(lambda: (folder / "term").exists())
    assert sandbox.wait(job, ENDED, 40) == "PREEMPTED"
    sandbox.wait(urgent, ["COMPLETED"], 20)


def test_a_heterogeneous_job_spans_two_partitions(sandbox: Sandbox, folder: Path) -> None:
    two = ["--partition=train", "-N2", "--gres=gpu:8", ":", "--partition=judge", "-N1"]
    job = submit(sandbox, folder, "srun --het-group=0,1 sh -c 'echo $(hostname) $SLURM_JOB_PARTITION'\n", two)

    sandbox.wait(job, ENDED, 30)

    assert len(output(folder, job).splitlines()) == 3


def test_requests_are_counted_without_those_of_the_question(sandbox: Sandbox) -> None:
    before = sandbox.rpcs()

    sandbox.run(["scontrol", "ping"], check=True)
    sandbox.run(["sinfo"], check=True)

    after = sandbox.rpcs()
    assert after.by_type["REQUEST_PARTITION_INFO"] - before.by_type.get("REQUEST_PARTITION_INFO", 0) == 1
    assert 2 <= after.of_clients - before.of_clients <= 4
    assert sandbox.rpcs().of_clients == after.of_clients


def test_a_controller_that_was_stopped_remembers_its_jobs(sandbox: Sandbox, folder: Path) -> None:
    job = submit(sandbox, folder, "exec sleep 300\n", ["--nodelist=n1"])
    sandbox.wait(job, ["RUNNING"], 20)

    sandbox.controller.stop()
    dead = not sandbox.controller.alive
    sandbox.controller.start()

    assert dead
    assert sandbox.wait(job, ["RUNNING"], 10) == "RUNNING"
    sandbox.run(["scancel", job], check=True)


def test_it_is_up_and_down_in_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    sandbox = Sandbox(folder)
    began = time.monotonic()

    sandbox.up()
    up_s = time.monotonic() - began
    submit(sandbox, tmp_path, f"setsid sleep 999 & : > {tmp_path}/runs; exec sleep 999\n", ["-N2"])
    _until(lambda: (tmp_path / "runs").exists())
    private = stat.S_IMODE(folder.stat().st_mode)
    began = time.monotonic()
    sandbox.down()
    down_s = time.monotonic() - began
    sandbox.down()

    print(f"up {up_s:.2f} s, down {down_s:.2f} s")
    assert up_s < 10
    assert down_s < 10
    assert private == 0o700
    assert not sandbox.is_up
    _nothing_is_left(folder)


def test_two_side_by_side_do_not_meet(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "a", TINY) as one, Sandbox(tmp_path / "b", TINY) as two:
        ours = submit(one, tmp_path, "exec sleep 300\n")
        theirs = submit(two, tmp_path, "exec sleep 300\n")
        one.wait(ours, ["RUNNING"], 20)
        two.wait(theirs, ["RUNNING"], 20)

        two.run(["scancel", theirs], check=True)
        two.wait(theirs, ["CANCELLED"], 20)
        one.node("n2").cut()

        assert one.record.addresses != two.record.addresses
        assert one.state(ours) == "RUNNING"
        assert (
            two.run(["srun", "--partition=urgent", "-N2", "hostname"], 20).stdout.split().sort() == ["n1", "n2"].sort()
        )
    _nothing_is_left(tmp_path / "a")
    _nothing_is_left(tmp_path / "b")


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.25, 0.35])
def test_an_up_that_was_killed_half_way_is_cleared_away(tmp_path: Path, after_s: float) -> None:
    folder = tmp_path / "slurm"
    starting = _command("--dir", str(folder), "up")
    _until(lambda: folder.exists())
    time.sleep(after_s)
    starting.kill()
    starting.wait()

    assert _command("--dir", str(folder), "down").wait(20) == 0

    _nothing_is_left(folder)


def test_the_next_up_clears_what_is_left_of_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    with Sandbox(folder, TINY) as sandbox:
        sandbox.controller.stop(kill=True)
        assert not sandbox.is_up

        sandbox.up()

        assert sandbox.run(["srun", "-p", "urgent", "-N2", "true"], 20).returncode == 0
    _nothing_is_left(folder)


def test_other_options_need_another_start(tmp_path: Path) -> None:
    with (
        Sandbox(tmp_path / "slurm", TINY),
        pytest.raises(SandboxError, match="is up with other options"),
    ):
        Sandbox(tmp_path / "slurm", Options(nodes=3)).up()


def test_a_folder_with_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")

    with pytest.raises(SandboxError, match=r"holds what is no sandbox's \(thesis.tex\)"):
        Sandbox(tmp_path).up()


def test_without_namespaces_all_nodes_share_an_address(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "slurm", Options(nodes=3, layout="multi")) as sandbox:
        done = sandbox.run(["srun", "-p", "urgent", "-N3", "sh", "-c", "echo $SLURMD_NODENAME"], 20)
        submit(sandbox, tmp_path, f"sleep 777 & : > {tmp_path}/runs; exec sleep 777\n", ["--nodelist=n1"])
        _until(lambda: (tmp_path / "runs").exists())
        with pytest.raises(SandboxError, match="no cable of its own"):
            sandbox.node("n2").cut()
        sandbox.node("n1").kill()
        killed = sandbox.node("n1").processes()

        assert sorted(done.stdout.split()) == ["n1", "n2", "n3"]
        assert killed == []
        assert len(sandbox.node("n2").processes()) == 1
    _nothing_is_left(tmp_path / "slurm")


def test_without_root_nodes_still_have_networks_of_their_own() -> None:
    folder = Path(f"/tmp/sandbox-test-{os.getpid()}")
    user = [*NOBODY, *READ_ALL] if os.geteuid() == 0 else []
    program = (
        "import sys; from pathlib import Path; from cluster.sandbox import Options, Sandbox\n"
        "with Sandbox(Path(sys.argv[1]), Options(nodes=3, layout='netns')) as sandbox:\n"
        "    assert sandbox.record.route == 'user', sandbox.record\n"
        "    print(sandbox.run(['srun', '-p', 'urgent', '-N3', 'hostname'], 20, check=True).stdout)\n"
        "    sandbox.node('n3').cut(); sandbox.node('n3').heal()\n"
        "    sandbox.node('n2').kill(); sandbox.node('n2').boot()\n"
        "    print(sandbox.run(['srun', '-p', 'urgent', '-N3', 'hostname'], 20, check=True).stdout)\n"
    )
    folder.mkdir(mode=0o700)
    env = {**os.environ, "HOME": str(folder)}
    if user:
        os.chown(folder, 65534, 65534)
    try:
        done = subprocess.run(
            [*user, sys.executable, "-c", program, str(folder)],
            capture_output=True, text=True, timeout=60, cwd=CHECKOUT, env=env, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)

    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["n1", "n1", "n2", "n2", "n3", "n3"]
    _nothing_is_left(folder)


def test_run_brings_it_up_passes_the_exit_code_and_takes_it_down(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    seen = f"test $ORCH_CLUSTER = sandbox && sinfo -h > {tmp_path}/seen; exit 7"

    code = _command("--dir", str(folder), "run", "--nodes", "2", "--", "sh", "-c", seen).wait(30)

    assert code == 7
    assert "urgent" in (tmp_path / "seen").read_text()
    _nothing_is_left(folder)


def test_run_leaves_a_sandbox_up_that_was_up(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "slurm", TINY) as sandbox:
        code = _command("--dir", str(sandbox.folder), "run", "--", "true").wait(30)

        assert code == 0
        assert sandbox.is_up


def test_a_terminated_run_ends_its_command_and_takes_the_sandbox_down(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    command = _command("--dir", str(folder), "run", "--", "sh", "-c", f": > {tmp_path}/runs; exec sleep 500")
    _until(lambda: (tmp_path / "runs").exists())

    command.send_signal(signal.SIGTERM)

    assert command.wait(20) == 128 + signal.SIGTERM
    _nothing_is_left(folder)


def test_a_users_shell_with_the_environment_survives_down(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "slurm", TINY) as sandbox:
        shell = subprocess.Popen(["sleep", "500"], env=sandbox.env)
    survived = shell.poll() is None
    shell.kill()
    shell.wait()

    assert survived


def _command(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cluster.sandbox", *arguments], cwd=CHECKOUT)


def _nothing_is_left(folder: Path) -> None:
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    groups = list(Path("/sys/fs/cgroup").rglob(f"*{digest(folder)}*"))
    assert members.of(folder) == []
    assert digest(folder) not in links
    assert groups == []
    assert not folder.exists() or {path.name for path in folder.iterdir()} <= {"log", "lock"}


def _until(true: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"not so within {timeout_s} s"
        time.sleep(0.05)
