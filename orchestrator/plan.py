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

from orchestrator.errors import Problem, all_at_once

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
        backoff_s: Pause before the second restart, the first being immediate; doubled each time up to a minute.
        start_timeout_s: A service that has not answered by then counts as failed.
        hung_after_s: A role that has said what it does and then says nothing for so long counts as failed.
        drain_s: Time to finish after being asked to stop; then it is killed.
        environment: Added to the role's environment. Holds no secrets, only names of files.
        settings: The recipe's ``with``, checked by the job itself.
        group: Which of the plan's groups the role runs on; 0 without groups.
        first_node: Replica ``r`` runs on nodes ``first_node + r * nodes`` and following of that group.
        url: Base URL of a service that runs elsewhere, ending in ``/v1``; no process is started for it. Empty
            for every other role.
        options: How the role is started on its nodes, ``slurm_options.STEP_KEYS`` as JSON; for ``render.step_prefix``
            and ``render.step_options``.
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
    hung_after_s: float = 1800.0
    drain_s: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    group: int = 0
    first_node: int = 0
    url: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Nodes of one kind: one component of a Slurm job, or, in a pair, one job.

    Attributes:
        name: Of the role that the nodes are for, ``train``; names the component or job.
        nodes: How many.
        gpus_per_node: 0 for nodes without GPU.
        cpus_per_node: None leaves it to the site.
        memory_gb: Per node. None leaves it to the site.
        options: The site's options for these nodes, ``slurm_options.NODE_KEYS`` as JSON.
        time_limit_s: Of a job of its own in a pair; None leaves it to the plan.
    """

    name: str
    nodes: int
    gpus_per_node: int = 0
    cpus_per_node: int | None = None
    memory_gb: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    time_limit_s: int | None = None


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
    groups: tuple[Group, ...] = ()
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
        InputError: The roles cannot be laid on this site's nodes as the recipe asks; all problems are listed.
    """
    from orchestrator import placement

    layout, faults = placement.lay(recipe, profile, cluster)
    if layout is None:
        problems = [
            Problem(place=".".join(map(str, fault.path)), fact=fault.fact, way_out=fault.way_out) for fault in faults
        ]
        raise all_at_once(source, problems)
    return Plan(
        name=run_name or recipe.name,
        recipe=source,
        recipe_sha256=sha256,
        cluster=cluster,
        executor=profile.executor,
        placement=layout.placement,
        time_limit_s=recipe.time_limit_s,
        restarts=Restarts(**dict(recipe.restarts)),
        roles=layout.roles,
        groups=layout.groups,
        profile=profile.model_dump(mode="json", exclude_defaults=True),
    )


def roles(recipe: recipes.Recipe) -> list[Role]:
    """Return the recipe's roles in the order in which they can start, not yet laid on nodes."""
    return [_role(name, recipe) for name in _order(recipe)]


def _order(recipe: recipes.Recipe) -> list[str]:
    waits = {name: {*role.needs, *role.after} for name, role in recipe.roles.items()}
    order: list[str] = []
    while len(order) < len(waits):
        order.append(next(name for name in waits if name not in order and waits[name] <= set(order)))
    return order


def _role(name: str, recipe: recipes.Recipe) -> Role:
    written = recipe.roles[name]
    if written.url is not None:
        return _external(name, written)
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
        hung_after_s=written.hung_after_s,
        drain_s=written.drain_s,
        environment=written.environment,
        settings=written.settings,
    )


def _external(name: str, written: recipes.Role) -> Role:
    """Return a service that runs elsewhere: it has no process, so of its settings only the address is left."""
    assert written.url is not None
    settings: dict[str, Any] = {
        key: written.settings[key] for key in ("model", "api_key_file") if key in written.settings
    }
    return Role(
        name=name,
        job="external",
        kind="service",
        needs=written.needs,
        after=written.after,
        restarts=0,
        start_timeout_s=written.start_timeout_s,
        settings=settings,
        url=written.url,
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
                "groups": tuple(Group(**group) for group in data.get("groups", ())),
                "placement": Placement(**data["placement"]),
                "restarts": Restarts(**data["restarts"]),
            }
        )
    )


def load(path: Path) -> Plan:
    """Return the plan stored in ``path``."""
    return from_json(path.read_text(encoding="utf-8"))
