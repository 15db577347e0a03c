"""The sandbox's command line: ``python -m cluster.sandbox --help``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import get_args

from cluster.sandbox import members
from cluster.sandbox.options import Layout, Options, Proctrack
from cluster.sandbox.slurm import Sandbox, default_folder
from orchestrator.errors import OrchestratorError

WRONG_OPTION = 2
SIGNAL_BASE = 128
OPTION = "option_"
"""Before the names of ``Options`` in what was parsed: `preempt` has nodes of its own."""
FAULTS = ("cut", "heal", "kill", "boot", "down", "resume")
CHOICES = {"backfill": ("fast", "default"), "proctrack": get_args(Proctrack), "layout": get_args(Layout)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        sandbox = Sandbox(chosen.dir, _options(chosen), say=_say)
        return int(chosen.act(sandbox, chosen))
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_OPTION


def up(sandbox: Sandbox, _chosen: argparse.Namespace) -> int:
    """Bring the sandbox up."""
    sandbox.up()
    _say("Next: python -m cluster.sandbox run -- sinfo")
    return 0


def down(sandbox: Sandbox, _chosen: argparse.Namespace) -> int:
    """End it and everything in it."""
    sandbox.down()
    return 0


def env(sandbox: Sandbox, _chosen: argparse.Namespace) -> int:
    """Print what a shell needs: eval "$(python -m cluster.sandbox env)"."""
    if sandbox.record.login is not None:
        _say("Without root the nodes' network is not this shell's; use: python -m cluster.sandbox run -- CMD")
    for name, value in sandbox.own_env.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def run(sandbox: Sandbox, chosen: argparse.Namespace) -> int:
    """Run CMD in the sandbox, which is brought up for it if it is not up, and then also taken down."""
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if not command:
        raise ValueError("run: no command. Write it after two dashes: run -- sinfo.")
    ours = not sandbox.is_up
    sandbox.up()
    try:
        return _pass_on(sandbox, command)
    finally:
        if ours:
            sandbox.down()


def status(sandbox: Sandbox, _chosen: argparse.Namespace) -> int:
    """Say what is up, and how many processes each node has."""
    if not sandbox.is_up:
        left = members.of(sandbox.folder)
        print(f"{sandbox.folder}: not up" + (f", {len(left)} process(es) left; take it down" if left else ""))
        return 1
    known = sandbox.record
    port = known.addresses.controller_port
    print(f"{sandbox.folder}: up, namespaces by {known.route}, proctrack/{known.proctrack}, port {port}")
    for node in sandbox.nodes:
        print(f"{node.name}  {node.ip:15}  {node.state:20}  {len(node.processes())} processes")
    return 0


def node(sandbox: Sandbox, chosen: argparse.Namespace) -> int:
    """Try a fault on a node: cut and heal its cable, kill and boot it, declare it down and resume it."""
    getattr(sandbox.node(chosen.name), chosen.fault)()
    return 0


def controller(sandbox: Sandbox, chosen: argparse.Namespace) -> int:
    """Stop slurmctld, or start it again."""
    getattr(sandbox.controller, chosen.fault)()
    return 0


def preempt(sandbox: Sandbox, chosen: argparse.Namespace) -> int:
    """Take nodes from their jobs with a job of high priority, for a time; print its id."""
    for name in chosen.nodes:
        sandbox.node(name)
    print(sandbox.preempt(chosen.nodes, chosen.seconds))
    return 0


def _pass_on(sandbox: Sandbox, command: Sequence[str]) -> int:
    child = subprocess.Popen(sandbox.command(command), env=sandbox.env)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # A terminal sends Ctrl-C to the command as well, which decides what to do; we only wait for it.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    code = child.wait()
    return code if code >= 0 else SIGNAL_BASE - code


def _options(chosen: argparse.Namespace) -> Options | None:
    given = {option.name: getattr(chosen, OPTION + option.name, None) for option in fields(Options)}
    wanted = {name: value for name, value in given.items() if value is not None}
    if "requeue_exit" in wanted:
        wanted["requeue_exit"] = tuple(wanted["requeue_exit"])
    return Options(**wanted) if wanted else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.sandbox",
        description="A real Slurm with several virtual nodes on this machine, in one private folder.",
    )
    parser.add_argument("--dir", type=Path, help=f"the sandbox's folder (default: {default_folder()})")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for act in (up, down, env, run, status, node, controller, preempt):
        assert act.__doc__ is not None
        verb = verbs.add_parser(act.__name__, help=act.__doc__, description=act.__doc__)
        verb.set_defaults(act=act)
        # Also after the verb; suppressed, so that it does not undo what was said before it.
        verb.add_argument("--dir", type=Path, default=argparse.SUPPRESS, help="the sandbox's folder")
        _arguments(verb, act.__name__)
    return parser


def _arguments(verb: argparse.ArgumentParser, name: str) -> None:
    if name in ("up", "run"):
        for option in fields(Options):
            _option(verb, option.name, option.default if option.default is not MISSING else None)
    if name == "run":
        verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    if name == "node":
        verb.add_argument("name", help="n1, n2, ...")
        verb.add_argument("fault", choices=FAULTS)
    if name == "controller":
        verb.add_argument("fault", choices=("stop", "start"))
    if name == "preempt":
        verb.add_argument("nodes", nargs="+", help="n1, n2, ...")
        verb.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10)")


def _option(verb: argparse.ArgumentParser, name: str, default: object) -> None:
    flag, dest = "--" + name.replace("_", "-"), OPTION + name
    told = f"default: {default}"
    if isinstance(default, bool):
        verb.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, default=None, help=told)
    elif isinstance(default, tuple):
        verb.add_argument(
            flag, dest=dest, type=int, nargs="+", default=None, metavar="CODE", help="exit codes; default: none"
        )
    elif name in CHOICES:
        verb.add_argument(flag, dest=dest, choices=CHOICES[name], default=None, help=told)
    else:
        verb.add_argument(flag, dest=dest, type=int, default=None, metavar="N", help=told)


def _say(line: str) -> None:
    print(f"sandbox: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    # A command that was passed on may have closed our output; a reader that went away is no error of ours.
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)
