from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import machine


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_this_machine_has_something() -> None:
    here = machine.here()

    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert here.memory_gb > 0


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").is_dir(), reason="the driver's folder answers before the tool")
@pytest.mark.parametrize(
    ("visible", "script", "expected"),
    [
        pytest.param(None, "echo 'GPU 0: A'; echo 'GPU 1: B'", 2, id="all"),
        pytest.param("1", "echo 'GPU 0: A'; echo 'GPU 1: B'", 1, id="one is visible"),
        pytest.param("", "echo 'GPU 0: A'", 0, id="none is visible"),
        pytest.param("-1", "echo 'GPU 0: A'", 0, id="none is visible, written otherwise"),
        pytest.param(None, "echo 'NVIDIA-SMI has failed'; exit 9", 0, id="no driver"),
    ],
)
def test_gpus_are_counted_by_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, script: str, expected: int
) -> None:
    smi(tmp_path, script, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert machine.here().gpus == expected
