from __future__ import annotations

import sys
from pathlib import Path

from jobs.judge import server
from jobs.judge.settings import Settings

BASE = {"PATH": "/bin", "OMP_NUM_THREADS": "1"}


def build(settings: Settings) -> server.Server:
    return server.build(settings, folder=Path("/node"), nonce="abc", key="the-key", base=BASE)


def test_vllm_on_a_cpu() -> None:
    made = build(Settings(model="org/model", engine="vllm", max_model_len=1024, extra_args={"max_num_seqs": 8}))

    assert " ".join(made.argv[1:]) == (
        "-m jobs.judge.vllm_server --model org/model --served-model-name judge-abc --uds /node/vllm.sock "
        "--dtype float32 --tensor-parallel-size 1 --max-model-len 1024 --distributed-executor-backend uni "
        "--enable-prefix-caching "
        "--disable-uvicorn-access-log --enforce-eager --max-num-seqs 8"
    )
    assert made.argv[0] == sys.executable
    assert made.model == "judge-abc"
    assert made.environment == BASE | {
        "VLLM_API_KEY": "the-key",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def test_the_key_is_not_in_the_command_line() -> None:
    assert not any("the-key" in part for part in build(Settings(model="m", engine="vllm")).argv)


def test_switches_become_options_with_and_without_no() -> None:
    made = build(
        Settings(model="m", engine="vllm", extra_args={"async-scheduling": True, "enable_log_requests": False})
    )
    assert made.argv[-2:] == ["--async-scheduling", "--no-enable-log-requests"]


def test_the_hub_is_not_asked_about_a_model_on_disk(tmp_path: Path) -> None:
    assert build(Settings(model=str(tmp_path))).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in build(Settings(model="org/model")).environment


def test_the_environment_of_a_role_wins_over_the_tuning() -> None:
    base = {"VLLM_CPU_KVCACHE_SPACE": "4", "OMP_NUM_THREADS": "6"}
    made = server.build(Settings(model="m", engine="vllm"), folder=Path("/node"), nonce="n", key="k", base=base)
    assert made.environment["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert made.environment["OMP_NUM_THREADS"] == "6"


def test_transformers_serves_under_the_models_own_name() -> None:
    made = build(Settings(model="org/model", engine="transformers"))
    assert " ".join(made.argv[1:]) == (
        f"-m jobs.judge.transformers_server serve org/model --host 127.0.0.1 --port {made.port} --dtype auto"
    )
    assert made.port > 0
    assert made.model == "org/model"
    assert "VLLM_API_KEY" not in made.environment
