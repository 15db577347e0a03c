"""TorchX's Slurm scheduler: one heterogeneous job, one ``srun`` over all roles, a requeue if it fails."""

from __future__ import annotations

import re
from pathlib import Path

from bench.peers import CHECKOUT, Peer
from cluster.sandbox import Sandbox, SandboxError

COMPONENT = """import torchx.specs as specs

def app(max_retries: int = 10) -> specs.AppDef:
    resource = specs.Resource(cpu={cpus}, gpu=0, memMB=2048)
    commands = {commands!r}
    roles = [
        specs.Role(
            name=name, image="", entrypoint=argv[0], args=argv[1:], env={{"PYTHONPATH": {checkout!r}}},
            resource=resource, max_retries=max_retries,
        )
        for name, argv in commands.items()
    ]
    return specs.AppDef(name="bench", roles=roles)
"""
START_S = 60.0


class TorchX(Peer):
    """``torchx run --scheduler slurm``."""

    name = "TorchX"

    def __init__(self, sandbox: Sandbox, folder: Path, step_s: float, environment: Path) -> None:
        super().__init__(sandbox, folder, step_s)
        self.torchx = environment / "bin" / "torchx"

    def submit(self) -> None:
        """Submit the job and note its id."""
        commands = {role: self.role(role) for role in ("trainer", "judge")}
        (self.folder / "app.py").write_text(
            COMPONENT.format(commands=commands, checkout=str(CHECKOUT), cpus=self.sandbox.options.cpus)
        )
        run = ["run", "--scheduler", "slurm", "--scheduler_args", "partition=train,time=60", "app.py:app"]
        done = self.sandbox.run([str(self.torchx), *run], START_S, cwd=self.folder)
        # Having submitted, it asks sacct and fails if there is no slurmdbd; the job is in the queue by then.
        found = re.search(r"slurm://\S+/(\d+)", done.stdout + done.stderr)
        if found is None:
            raise SandboxError(f"torchx run: no job was submitted. {done.stderr}")
        self.job = found.group(1)
