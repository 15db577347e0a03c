"""The plan: everything a run needs to know, computed once from recipe and profile.

``plan.json`` is what a run is resumed from; the recipe may change afterwards without reaching it.
Building a plan touches neither the network, the clock nor the scheduler.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
RoleKind = Literal["service", "batch"]


@dataclass(frozen=True, kw_only=True)
class Role:
    """One role of a run, ready to be started.

    Attributes:
        name: Unique in the plan; also names its log, endpoint and outputs.
        job: What to run: ``"grpo"`` means ``python -m jobs.grpo``.
        kind: ``service`` publishes an endpoint and is stopped when nobody needs it any more;
            ``batch`` ends by itself.
        needs: Services that must answer before this role starts, and must outlive it.
        after: Batch roles that must have succeeded before this role starts.
        replicas: How many copies of a service run.
        nodes: Nodes of one replica.
        gpus_per_node: 0 for a role without GPU.
        cpus_per_node: None leaves it to the machine.
        memory_gb: Per node. None leaves it to the machine.
        restarts: How often the role is started again after a failure inside one allocation.
        backoff_s: Pause before the first restart; doubled each time up to a minute.
        start_timeout_s: A service that has not answered by then counts as failed.
        drain_s: Time to finish after being asked to stop; then it is killed.
        environment: Added to the role's environment. Holds no secrets, only names of files.
        settings: The recipe's ``with``, checked by the job itself.
    """

    name: str
    job: str
    kind: RoleKind
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    replicas: int = 1
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: int | None = None
    memory_gb: float | None = None
    restarts: int = 3
    backoff_s: float = 2.0
    start_timeout_s: float = 600.0
    drain_s: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How roles are laid on nodes, and why this way was chosen."""

    kind: Literal["local", "slice", "hetjob", "pair", "external"]
    why: str


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """How often a run may be started again, by cause. None is without limit."""

    preempted: int | None = None
    time_limit: int | None = None
    node_failure: int | None = 10
    crash: int | None = 3
    without_progress: int = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run. A pure function of recipe and profile."""

    name: str
    recipe: str
    recipe_sha256: str
    cluster: str
    executor: Literal["local", "slurm"]
    placement: Placement
    time_limit_s: int
    restarts: Restarts
    roles: tuple[Role, ...]
    profile: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def role(self, name: str) -> Role:
        """Return the role of that name; KeyError if the plan has none, which is a bug of ours."""
        for role in self.roles:
            if role.name == name:
                return role
        raise KeyError(name)


def to_json(plan: Plan) -> str:
    """Return the plan as JSON; the same plan always gives the same bytes."""
    return json.dumps(dataclasses.asdict(plan), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> Plan:
    """Return the plan that ``to_json`` wrote.

    Raises:
        ValueError: The file was written by a version with another schema.
    """
    data = json.loads(text)
    if data.get("schema") != SCHEMA:
        raise ValueError(
            f"plan.json has schema {data.get('schema')!r}; this version reads {SCHEMA}. "
            "Use the version that submitted the run."
        )
    roles = tuple(
        Role(**(role | {"needs": tuple(role["needs"]), "after": tuple(role["after"])})) for role in data["roles"]
    )
    return Plan(
        **(
            data
            | {
                "roles": roles,
                "placement": Placement(**data["placement"]),
                "restarts": Restarts(**data["restarts"]),
            }
        )
    )


def load(path: Path) -> Plan:
    """Return the plan stored in ``path``."""
    return from_json(path.read_text(encoding="utf-8"))
