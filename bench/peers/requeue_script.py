"""A batch script as people write it by hand: both roles in the background, and a requeue when one has ended."""

from __future__ import annotations

import shlex

from bench.peers import CHECKOUT, Peer

SCRIPT = """#!/bin/bash
#SBATCH --job-name=requeue --requeue --partition=train --nodes=2 --ntasks-per-node=1 --exclusive --mem=2G --time=60
#SBATCH --output={folder}/slurm.out --open-mode=append --chdir={checkout}
again() {{ scontrol requeue "$SLURM_JOB_ID"; sleep 60; exit 1; }}
trap again TERM USR1
srun --overlap --nodes=1 --ntasks=1 --relative=1 {judge} &
srun --overlap --nodes=1 --ntasks=1 --relative=0 {trainer} &
wait -n && exit 0
again
"""


class RequeueScript(Peer):
    """``sbatch --requeue`` of a script with a trap."""

    name = "requeue script"

    def submit(self) -> None:
        """Submit the job and note its id."""
        script = self.folder / "job.sh"
        script.write_text(
            SCRIPT.format(
                folder=self.folder,
                checkout=CHECKOUT,
                judge=shlex.join(self.role("judge")),
                trainer=shlex.join(self.role("trainer")),
            )
        )
        self.job = self.sandbox.run(["sbatch", "--parsable", str(script)], check=True).stdout.strip()
