"""Starts ``transformers serve`` with the torchvision repair and without its question for updates.

python -m jobs.judge.transformers_server serve MODEL --port 8000
"""

from __future__ import annotations

from jobs import torchvision_cpu

if __name__ == "__main__":
    torchvision_cpu.repair()

    from transformers.cli.transformers import app

    app()
