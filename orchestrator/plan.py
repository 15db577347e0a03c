"""The plan: everything a run needs to know, computed once from recipe and profile.

``plan.json`` is what a run is resumed from; the recipe may change afterwards without reaching it.
Building a plan touches neither the network, the clock nor the scheduler.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator import recipe as recipes
    from orchestrator.profile import Profile

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


def build(
    recipe: recipes.Recipe, profile: Profile, *, cluster: str, source: str, sha256: str, run_name: str | None = None
) -> Plan:
    """Return the plan of ``recipe`` on the site that ``profile`` describes.

    Roles are in the order in which they can start, so the plan reads like the run; roles that
    could start together keep the recipe's order. Everything else is taken over as it stands.

    Args:
        recipe: What to run, checked.
        profile: Where.
        cluster: The profile's name.
        source: The recipe's path, for people.
        sha256: The recipe's hash.
        run_name: The run's name; the recipe's if None.

    Raises:
        InputError: The profile asks for an executor that this version does not have.
    """
    if profile.executor != "local":
        raise InputError(
            f"cluster/{cluster}.yaml: executor: this version has no executor {profile.executor!r}. "
            "Use --cluster local, which runs on this machine."
        )
    return Plan(
        name=run_name or recipe.name,
        recipe=source,
        recipe_sha256=sha256,
        cluster=cluster,
        executor=profile.executor,
        placement=Placement(
            kind="local", why=f"The profile {cluster!r} starts every role on this machine, so there is no choice."
        ),
        time_limit_s=recipe.time_limit_s,
        restarts=Restarts(**dict(recipe.restarts)),
        roles=tuple(_role(name, recipe) for name in _order(recipe)),
        profile=profile.model_dump(mode="json"),
    )


def _order(recipe: recipes.Recipe) -> list[str]:
    waits = {name: {*role.needs, *role.after} for name, role in recipe.roles.items()}
    order: list[str] = []
    while len(order) < len(waits):
        order.append(next(name for name in waits if name not in order and waits[name] <= set(order)))
    return order


def _role(name: str, recipe: recipes.Recipe) -> Role:
    written = recipe.roles[name]
    is_service = any(name in other.needs for other in recipe.roles.values())
    return Role(
        name=name,
        job=written.job,
        kind="service" if is_service else "batch",
        needs=written.needs,
        after=written.after,
        replicas=written.replicas,
        nodes=written.nodes,
        gpus_per_node=written.gpus_per_node,
        cpus_per_node=written.cpus_per_node,
        memory_gb=written.memory_gb,
        restarts=written.on_failure.restart,
        backoff_s=written.on_failure.backoff_s,
        start_timeout_s=written.start_timeout_s,
        drain_s=written.drain_s,
        environment=written.environment,
        settings=written.settings,
    )


def to_json(plan: Plan) -> str:
    """Return the plan as JSON; the same plan always gives the same bytes."""
    return json.dumps(dataclasses.asdict(plan), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> Plan:
    """Return the plan that ``to_json`` wrote.

    Raises:
        ValueError: The file was written by a version with another schema.
    """
    data = json.loads(text)
    written = data.get("schema") if isinstance(data, dict) else None
    if written != SCHEMA:
        raise ValueError(
            f"plan.json has schema {written!r}; this version reads {SCHEMA}. Use the version that submitted the run."
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
