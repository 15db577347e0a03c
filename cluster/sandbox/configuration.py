"""The files that Slurm and the nodes read. Pure: text from options and addresses.

An unknown key in slurm.conf stops every client, so only keys that 22.05 and newer know are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.sandbox.addresses import Addresses
from cluster.sandbox.options import Options

URGENT_TIER = 10
ORDINARY_TIER = 1
MIB_PER_GIB = 1024

NSSWITCH = "passwd: files\ngroup: files\nhosts: files\n"
"""Names from /etc/hosts only: a resolver that a node cannot reach costs 10 s for every unknown name."""

CGROUP = "CgroupPlugin={plugin}\nCgroupMountpoint={mountpoint}\nIgnoreSystemd=yes\n"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a sandbox's configuration depends on besides its options.

    Attributes:
        folder: The sandbox's folder.
        addresses: Its addresses and ports.
        hostname: The machine's own short host name, which slurmctld insists on.
        user: The user in whose name the daemons run.
        proctrack: The plugin that finds a step's processes.
    """

    folder: Path
    addresses: Addresses
    hostname: str
    user: str
    proctrack: str


def partitions(options: Options) -> dict[str, tuple[str, ...]]:
    """Return the nodes of each partition: ``train`` and ``judge`` share one, ``urgent`` has all.

    >>> partitions(Options(nodes=6))["train"], partitions(Options(nodes=6))["judge"]
    (('n1', 'n2', 'n3', 'n4'), ('n4', 'n5', 'n6'))
    """
    names = options.node_names
    shared = max(1, len(names) - 2)
    return {"train": names[:shared], "judge": names[shared - 1 :], "urgent": names}


def slurm_conf(options: Options, site: Site) -> str:
    """Return slurm.conf."""
    folder, addresses = site.folder, site.addresses
    lines = [
        f"ClusterName=sandbox\nSlurmctldHost={site.hostname}({addresses.host})",
        f"SlurmctldPort={addresses.controller_port}\nSlurmUser={site.user}\nSlurmdUser={site.user}",
        *_authentication(options, folder),
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid\nSlurmdPidFile={folder}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log\nSlurmdLogFile={folder}/log/slurmd-%n.log",
        f"ProctrackType=proctrack/{site.proctrack}\nTaskPlugin=task/none\nMpiDefault=none",
        "SwitchType=switch/none\nJobAcctGatherType=jobacct_gather/none",
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory",
        f"DefMemPerCPU={options.memory_gb * MIB_PER_GIB // options.cpus}",
        "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\nSchedulerType=sched/backfill",
        # A node that did not answer is used again when it does; one that a person declared down is not.
        f"ReturnToService=1\nSlurmdTimeout={options.slurmd_timeout_s}\nKillWait={options.kill_wait_s}",
        # More CPUs and memory than the machine has.
        "SlurmdParameters=config_overrides",
        *_scheduling(options),
        "GresTypes=gpu" if options.gpus else "",
        *_nodes(options, site),
        *_partitions(options),
    ]
    return "\n".join(line for line in lines if line) + "\n"


def gres_conf(options: Options, folder: Path) -> str:
    """Return gres.conf. Slurm drops GPUs without a device file, so every GPU is a link to /dev/null."""
    if not options.gpus:
        return ""
    return f"NodeName=n[1-{options.nodes}] Name=gpu File={folder}/dev/gpu[0-{options.gpus - 1}]\n"


def hosts(options: Options, site: Site) -> str:
    """Return /etc/hosts as the nodes see it."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"{site.addresses.host} {site.hostname}"]
    lines += [f"{site.addresses.node(number)} {name}" for number, name in enumerate(options.node_names, 1)]
    return "\n".join(lines) + "\n"


def _authentication(options: Options, folder: Path) -> list[str]:
    expire = f"cred_expire={options.cred_expire_s}"
    if options.munge:
        return [f"AuthType=auth/munge\nCredType=cred/munge\nAuthInfo=socket={folder}/run/munge.socket,{expire}"]
    return [f"AuthType=auth/none\nCredType=cred/none\nAuthInfo={expire}"]


def _scheduling(options: Options) -> list[str]:
    lines = []
    if options.backfill == "fast":
        lines.append(
            "SchedulerParameters=bf_interval=1,bf_continue,sched_interval=1,sched_min_interval=0,batch_sched_delay=0"
        )
    if options.send_user_signal:
        # TODO: PreemptParameters=send_user_signal from 23.02 on; 22.05 does not know that key.
        lines.append("SlurmctldParameters=preempt_send_user_signal")
    if options.requeue_exit:
        lines.append("RequeueExit=" + ",".join(str(code) for code in options.requeue_exit))
    return lines


def _nodes(options: Options, site: Site) -> list[str]:
    size = f"CPUs={options.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus} ThreadsPerCore=1"
    size += f" RealMemory={options.memory_gb * MIB_PER_GIB}"
    size += f" Gres=gpu:{options.gpus}" if options.gpus else ""
    # All nodes of one machine share its host name unless each has a namespace of its own.
    owner = "" if site.addresses.subnet else f" NodeHostname={site.hostname}"
    return [
        f"NodeName={name}{owner} NodeAddr={site.addresses.node(number)} Port={site.addresses.node_port(number)} {size}"
        for number, name in enumerate(options.node_names, 1)
    ]


def _partitions(options: Options) -> list[str]:
    lines = []
    for name, members in partitions(options).items():
        tier = (
            f"PriorityTier={URGENT_TIER} PreemptMode=OFF"
            if name == "urgent"
            else f"PriorityTier={ORDINARY_TIER} PreemptMode=REQUEUE GraceTime={options.grace_s}"
        )
        default = "YES" if name == "train" else "NO"
        lines.append(
            f"PartitionName={name} Nodes={','.join(members)} Default={default} MaxTime=INFINITE State=UP {tier}"
        )
    return lines
