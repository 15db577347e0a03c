"""Starts the roles of a plan as steps of the Slurm job whose batch script this process is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from orchestrator import render, slurm_options
from orchestrator.allocation import launch, srun, step
from orchestrator.allocation.batch_job import BatchJob
from orchestrator.allocation.launch import Started
from orchestrator.allocation.srun import Step
from orchestrator.files import private_folder, write_json
from orchestrator.plan import Plan, Role
from orchestrator.run_directory import RunDirectory

JOBS_OWN = ("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GRES", "SLURM_TRES_PER_TASK")
"""Variables of the job that srun would take for its own options."""


class InThisJob:
    """Starts roles as steps of the job whose batch script this process is."""

    def __init__(
        self, run: RunDirectory, plan: Plan, generation: int, job: BatchJob, folder: Path | None = None
    ) -> None:
        """Prepare.

        Args:
            run: The run.
            plan: Its plan.
            generation: Under which the roles run.
            job: The job.
            folder: Where logs go; the attempt's own folder if None.
        """
        self._run = run
        self._plan = plan
        self._generation = generation
        self._job = job
        self._folder = folder or run.attempt(generation)
        self._here = launch.OnThisMachine(run, generation)

    def start(self, role: Role, replica: int, *, number: int, log: str) -> Started:
        """Start a replica on its nodes; what stands for a service elsewhere runs beside the supervisor."""
        if role.url:
            return self._here.start(role, replica, number=number, log=log)
        options = slurm_options.read(role.options)
        shown = {"checkout": launch.CHECKOUT, "run_dir": self._run.path}
        nodes = self._job.nodes.of(role, replica)
        argv = srun.command(
            role,
            nodes,
            component=role.group if self._job.nodes.heterogeneous else None,
            options=render.step_options(options, **shown),
            prefix=render.step_prefix(options, **shown),
            task=[
                render.step_interpreter(options, sys.executable),
                *("-m", "orchestrator.allocation.step"),
                *self._task(role, replica, number, self._folder / log),
            ],
            argv=launch.command(self._run, role, render.role_interpreter(options, sys.executable)),
        )
        env = launch.environment(os.environ, self._run, role, replica=replica, generation=self._generation)
        # What the job asked for in all would add to what this role asks for.
        env = {name: value for name, value in env.items() if name not in JOBS_OWN}
        env |= {"ORCH_NODES": ",".join(nodes), "ORCH_LEADER": self._job.address}
        self._name_records(role.name, replica, len(nodes))
        process = srun.start(argv, env, self._folder / f"srun-{log}")
        return Step(
            guard=process,
            pid=process.pid,
            start=time.time(),
            where=nodes,
            run=self._run,
            role=role.name,
            replica=replica,
            generation=self._generation,
            number=number,
        )

    def _name_records(self, role: str, replica: int, tasks: int) -> None:
        """Have the records' names exist before anybody looks: NFS remembers for a minute that a file was not there."""
        private_folder(self._run.steps)
        for rank in range(tasks):
            path = step.path_of(self._run, role, replica, rank)
            if not path.exists():
                write_json(path, {"generation": -1, "start": -1})

    def _task(self, role: Role, replica: int, number: int, log: Path) -> list[str]:
        return [
            f"--run-dir={self._run.path}",
            f"--role={role.name}",
            f"--replica={replica}",
            f"--start={number}",
            f"--generation={self._generation}",
            f"--log={log}",
            f"--drain-s={role.drain_s}",
        ]
