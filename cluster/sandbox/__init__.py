"""A real Slurm with several virtual nodes on one machine, in one private folder.

``python -m cluster.sandbox up | down | env | status | run -- CMD`` on the command line; in tests::

    with Sandbox(tmp_path / "slurm", Options(grace_s=2)) as sandbox:
        sandbox.run(["sbatch", "--wrap", "hostname"], timeout_s=10)
        sandbox.node("n3").cut()

Every node is a slurmd in its own network, host name and mount namespace, with its own address and ``/etc/hosts``;
files, process ids and users are the machine's own.
"""

from cluster.sandbox.errors import SandboxError
from cluster.sandbox.options import Options
from cluster.sandbox.slurm import Sandbox

__all__ = ["Options", "Sandbox", "SandboxError"]
