"""Starts vLLM's API server with the torchvision repair, in this process and in those it starts.

python -m jobs.judge.vllm_server --model ...
"""

from __future__ import annotations

import runpy
import sys

from jobs import torchvision_cpu

SERVER = "vllm.entrypoints.openai.api_server"
INSPECTION = "vllm.model_executor.models.registry"

if __name__ in ("__main__", "__mp_main__"):
    torchvision_cpu.repair()

if __name__ == "__main__":
    from vllm.model_executor.models import registry

    # vLLM asks what a model can do in a fresh interpreter, which would trip over torchvision again.
    registry._SUBPROCESS_COMMAND = [sys.executable, "-m", "jobs.torchvision_cpu", INSPECTION]
    sys.argv[0] = SERVER
    runpy.run_module(SERVER, run_name="__main__")
