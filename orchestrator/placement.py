"""How roles are laid on nodes: which share some, which kinds of nodes there are, and what holds them together.

Batch roles of which one always waits for the other take turns on the same nodes (a *lane*). A service has
nodes of its own for every replica, and so has a batch role that may run beside others. Lanes whose nodes
are alike can be one plain job that is divided by node, a *slice*; it starts sooner than a job of
several kinds of nodes, a *hetjob*, which only Slurm's backfill starts. A *pair* is several jobs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from orchestrator import plan, slurm_options
from orchestrator.plan import Group, Placement, Role
from orchestrator.profile import Profile
from orchestrator.recipe import Recipe
from orchestrator.section import Fault
from orchestrator.slurm_options import NODE_KEYS, STEP_KEYS

MAX_COMPONENTS = 128
"""Slurm takes no heterogeneous job with more."""

Size = Literal["gpus_per_node", "cpus_per_node", "memory_gb"]
SIZES: tuple[Size, ...] = ("gpus_per_node", "cpus_per_node", "memory_gb")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every role with its nodes, and the nodes in groups."""

    placement: Placement
    roles: tuple[Role, ...]
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Nodes that belong to one service, or on which batch roles take turns.

    Attributes:
        roles: In the order in which they can start.
        nodes: How many, replicas included.
        options: ``slurm_options.NODE_KEYS`` as JSON.
        chosen: Whether recipe or profile say something of these roles' nodes, and not only of all nodes.
        time_limit_s: The shortest that the site gives these roles; None if it says nothing.
    """

    roles: tuple[Role, ...]
    nodes: int
    gpus_per_node: int
    cpus_per_node: int | None
    memory_gb: float | None
    options: dict[str, Any] = field(default_factory=dict)
    chosen: bool = False
    time_limit_s: int | None = None

    @property
    def name(self) -> str:
        """The role that the nodes are for: of those that take turns, the first that needs services."""
        return next((role for role in self.roles if role.needs), self.roles[0]).name

    @property
    def names(self) -> str:
        return _listed([role.name for role in self.roles])

    @property
    def serves(self) -> bool:
        return self.roles[0].kind == "service"

    @property
    def exclusive(self) -> bool:
        return bool(self.options.get("exclusive"))


def lay(recipe: Recipe, profile: Profile, cluster: str) -> tuple[Layout | None, list[Fault]]:
    """Return where every role goes and why, or None and everything that stands against it.

    Args:
        recipe: What to run, checked.
        profile: Where.
        cluster: The profile's name, for the sentence that says why.
    """
    roles = plan.roles(recipe)
    if profile.executor == "local":
        why = f"The profile {cluster!r} starts every role on this machine, so there is no choice."
        return Layout(placement=Placement(kind="local", why=why), roles=tuple(roles)), []
    roles = [_on_site(role, recipe, profile) for role in roles]
    lanes = _lanes([_lane(role, recipe, profile) for role in roles if not role.url], roles)
    kind, why, faults = _choose(recipe.placement, lanes, [role for role in roles if role.url], profile, cluster)
    groups = [lanes] if kind in ("slice", "external") else _kinds(lanes)
    faults += _impossible(kind, groups, recipe.placement)
    if faults:
        return None, faults
    placement = Placement(kind=cast(Any, kind), why=why)
    return Layout(placement=placement, roles=_placed(roles, groups), groups=tuple(map(_group, groups))), []


def _on_site(role: Role, recipe: Recipe, profile: Profile) -> Role:
    """Return the role with the sizes that the site gives it, and with what wraps its program."""
    if role.url:
        return role
    site, written = profile.roles.get(role.name), recipe.roles[role.name].slurm
    # The script has these of the whole site, and what it starts inherits them; a role adds its own.
    inherited = {"modules": (), "setup": (), "virtual_environment": None, "python": None}
    everywhere = profile.slurm.model_copy(update=inherited)
    options = slurm_options.merged(everywhere, *([site] if site else []), written)
    sizes = {
        key: getattr(site, key) for key in ("nodes", *SIZES) if site is not None and getattr(site, key) is not None
    }
    added = (site.environment if site else {}) | role.environment | written.environment
    return dataclasses.replace(
        role, environment=added, options=slurm_options.chosen(options, STEP_KEYS), **cast(Any, sizes)
    )


def _lane(role: Role, recipe: Recipe, profile: Profile) -> Lane:
    site, written = profile.roles.get(role.name), recipe.roles[role.name].slurm
    own = slurm_options.merged(*([site] if site else []), written)
    options = slurm_options.chosen(slurm_options.merged(profile.slurm, own), NODE_KEYS)
    return Lane(
        roles=(role,),
        nodes=role.nodes * role.replicas,
        gpus_per_node=role.gpus_per_node,
        cpus_per_node=role.cpus_per_node,
        memory_gb=role.memory_gb,
        options=options,
        chosen=bool(slurm_options.chosen(own, NODE_KEYS)),
        time_limit_s=site.time_limit_s if site else None,
    )


def _lanes(single: list[Lane], roles: list[Role]) -> list[Lane]:
    """Let batch roles that take turns share nodes, and put the lane of the trainer first.

    A batch role of which nobody says where it runs goes to whom it takes turns with, the trainer before
    others; so the trainer is laid out first, and those with a wish of their own before those without.
    """
    before, trainer = _waits(roles), _trainer(roles)
    lanes: list[Lane] = []
    for lane in sorted(single, key=lambda lane: (lane.name != trainer, not lane.chosen)):
        host = next((i for i, other in enumerate(lanes) if _take_turns(other, lane, before)), None)
        if host is None:
            lanes.append(lane)
        else:
            lanes[host] = _joined([lanes[host], lane], roles, sum_nodes=False)
    order = [role.name for role in roles]
    return sorted(lanes, key=lambda lane: (lane is not lanes[0], order.index(lane.name)))


def _trainer(roles: list[Role]) -> str:
    """Return the first batch role that needs services, or else the first one: it is what the run is for."""
    batch = [role for role in roles if role.kind == "batch"]
    return next((role for role in batch if role.needs), batch[0]).name


def _waits(roles: list[Role]) -> dict[str, set[str]]:
    """Return for every role all that must have started, or ended, before it starts."""
    found: dict[str, set[str]] = {}
    for role in roles:  # in the order in which they can start
        direct = {*role.needs, *role.after}
        found[role.name] = direct.union(*(found[name] for name in direct))
    return found


def _take_turns(lane: Lane, other: Lane, before: dict[str, set[str]]) -> bool:
    if lane.serves or other.serves:
        return False
    alike = lane.options == other.options or not other.chosen
    return alike and all(a.name in before[b.name] or b.name in before[a.name] for a in lane.roles for b in other.roles)


def _joined(lanes: Sequence[Lane], roles: Sequence[Role], *, sum_nodes: bool) -> Lane:
    """Return one lane with the largest of every size, and the options of the first."""
    members = {role.name for lane in lanes for role in lane.roles}
    return dataclasses.replace(
        lanes[0],
        roles=tuple(role for role in roles if role.name in members),
        nodes=(sum if sum_nodes else max)(lane.nodes for lane in lanes),
        gpus_per_node=max(lane.gpus_per_node for lane in lanes),
        cpus_per_node=max((lane.cpus_per_node for lane in lanes if lane.cpus_per_node is not None), default=None),
        memory_gb=max((lane.memory_gb for lane in lanes if lane.memory_gb is not None), default=None),
        chosen=any(lane.chosen for lane in lanes),
        time_limit_s=min((lane.time_limit_s for lane in lanes if lane.time_limit_s is not None), default=None),
    )


def _choose(
    wish: str, lanes: list[Lane], elsewhere: list[Role], profile: Profile, cluster: str
) -> tuple[str, str, list[Fault]]:
    """Return the kind of placement, a sentence that says why, and why the recipe's wish cannot be met."""
    unlike = differences(lanes)
    limited = [lane for lane in lanes if lane.time_limit_s is not None]
    if wish != "auto":
        return wish, "The recipe asks for it.", _against(wish, lanes, unlike, limited, profile, cluster)
    who = _listed([lane.name for lane in lanes])
    if limited and any(lane.serves for lane in lanes):
        return "pair", f"{_listed([lane.name for lane in limited])} has a time limit of its own on this site.", []
    if unlike and profile.hetjobs:
        return "hetjob", f"{who} need nodes of different kinds at the same time: {'; '.join(unlike)}.", []
    if unlike:
        why = f"{who} need nodes of different kinds ({'; '.join(unlike)}), and {cluster!r} runs no heterogeneous jobs."
        return "pair", why, []
    if elsewhere and not any(lane.serves for lane in lanes):
        where = _listed([f"{role.name} ({role.url})" for role in elsewhere])
        return "external", f"{where} runs elsewhere; one plain job holds the rest.", []
    if len(lanes) == 1:
        return "slice", f"{lanes[0].names} run one after the other on the same nodes, so one plain job will do.", []
    why = f"{who} need nodes of the same kind ({_kind(lanes[0])}), and one plain job starts sooner than a hetjob."
    return "slice", why, []


def _against(
    wish: str, lanes: list[Lane], unlike: list[str], limited: list[Lane], profile: Profile, cluster: str
) -> list[Fault]:
    here = ("placement",)
    found = []
    if wish == "slice" and unlike:
        fact = f"A slice has nodes of one kind, but these differ: {'; '.join(unlike)}."
        found.append(Fault(path=here, fact=fact, way_out="Write placement: hetjob, or auto, or make them alike."))
    if wish == "hetjob" and not profile.hetjobs:
        fact = f"The profile {cluster!r} says that its site runs no heterogeneous jobs."
        found.append(Fault(path=here, fact=fact, way_out="Write placement: pair, or auto."))
    serving = [lane.name for lane in lanes if lane.serves]
    if wish == "external" and serving:
        fact = f"{_listed(serving)} has no url, so it does not run elsewhere."
        found.append(
            Fault(path=here, fact=fact, way_out=f"Write {serving[0]}.url=https://host:port/v1, or placement: auto.")
        )
    if wish == "external" and unlike:
        fact = f"What is left for Slurm needs nodes of different kinds: {'; '.join(unlike)}."
        found.append(Fault(path=here, fact=fact, way_out="Write placement: auto."))
    if wish == "pair" and not serving:
        fact = "A pair is a job of batch roles and one of services, but no service of this recipe needs nodes."
        found.append(Fault(path=here, fact=fact, way_out="Write placement: auto."))
    if wish != "pair" and limited:
        fact = f"The profile gives {_listed([lane.name for lane in limited])} a time limit of its own; one job has one."
        found.append(Fault(path=here, fact=fact, way_out="Write placement: pair, or auto."))
    return found


def _impossible(kind: str, groups: list[list[Lane]], wish: str) -> list[Fault]:
    here = ("placement",)
    batch = [group for group in groups if not group[0].serves]
    if kind == "hetjob" and len(groups) == 1:
        fact = "A heterogeneous job has several kinds of nodes, but all roles of this recipe take turns on the same."
        return [Fault(path=here, fact=fact, way_out="Write placement: auto.")] if wish == "hetjob" else []
    if kind == "hetjob" and len(groups) > MAX_COMPONENTS:
        fact = f"The roles need {len(groups)} kinds of nodes; Slurm takes a heterogeneous job of {MAX_COMPONENTS}."
        return [Fault(path=here, fact=fact, way_out="Make some of them alike.")]
    if kind == "pair" and len(batch) > 1:
        unlike = "; ".join(differences([lane for group in batch for lane in group]))
        fact = f"In a pair all batch roles are in one job, but they need different nodes: {unlike}."
        return [Fault(path=here, fact=fact, way_out="Make them alike, or write placement: hetjob.")]
    return []


def _kinds(lanes: list[Lane]) -> list[list[Lane]]:
    """Divide lanes into groups of nodes alike, those of services apart from those of batch roles."""
    groups: list[list[Lane]] = []
    for lane in lanes:
        mates = (group for group in groups if group[0].serves == lane.serves and not differences([*group, lane]))
        group = next(mates, None)
        if group is None:
            groups.append([lane])
        else:
            group.append(lane)
    return groups


def differences(lanes: Sequence[Lane]) -> list[str]:
    """Return in what the nodes of these lanes differ, each with its values; empty if they are alike.

    A size that is not given takes any. Of nodes that are given whole (``exclusive``) the sizes do not count,
    except that one with GPUs is not one without.
    """
    return [*_option_differences(lanes), *_size_differences(lanes)]


def _option_differences(lanes: Sequence[Lane]) -> list[str]:
    unlike = (_unlike(key, [(lane.name, _said(lane, key)) for lane in lanes]) for key in NODE_KEYS)
    return [text for text in unlike if text]


def _said(lane: Lane, key: str) -> str:
    """Return an option as words; which type of GPU does not matter to a node without."""
    value = lane.options.get(key, "none")
    if key == "gpu_type" and not lane.gpus_per_node:
        return "none"
    return ",".join(value) if isinstance(value, list) else str(value)


def _size_differences(lanes: Sequence[Lane]) -> list[str]:
    if all(lane.exclusive for lane in lanes):
        text = _unlike("GPUs", [(lane.name, "some" if lane.gpus_per_node else "none") for lane in lanes])
        return [text] if text else []
    given = ((key, [(lane.name, getattr(lane, key)) for lane in lanes]) for key in SIZES)
    unlike = (_unlike(key, [(name, f"{size:g}") for name, size in sizes if size is not None]) for key, sizes in given)
    return [text for text in unlike if text]


def _unlike(key: str, said: Sequence[tuple[str, str]]) -> str:
    values: dict[str, list[str]] = {}
    for name, value in said:
        values.setdefault(value, []).append(name)
    if len(values) < 2:
        return ""
    return f"{key} {_listed([f'{value} for {_listed(names)}' for value, names in values.items()])}"


def _kind(lane: Lane) -> str:
    """Return a few words for the kind of a lane's nodes."""
    where = lane.options.get("partition")
    gpus = {0: "no GPU", 1: "1 GPU"}.get(lane.gpus_per_node, f"{lane.gpus_per_node} GPUs")
    return f"partition {where}, {gpus}" if where else gpus


def _group(lanes: list[Lane]) -> Group:
    roles = [role for lane in lanes for role in lane.roles]
    whole = _joined(lanes, roles, sum_nodes=True)
    return Group(
        name=lanes[0].name,
        nodes=whole.nodes,
        gpus_per_node=whole.gpus_per_node,
        cpus_per_node=whole.cpus_per_node,
        memory_gb=whole.memory_gb,
        options=next((lane for lane in lanes if lane.gpus_per_node), lanes[0]).options,
        time_limit_s=whole.time_limit_s,
    )


def _placed(roles: list[Role], groups: list[list[Lane]]) -> tuple[Role, ...]:
    """Return the roles in their order, each with its group and its first node there."""
    places: dict[str, tuple[int, int]] = {}
    for number, lanes in enumerate(groups):
        first = 0
        for lane in lanes:
            places |= {role.name: (number, first) for role in lane.roles}
            first += lane.nodes
    found = []
    for role in roles:
        group, first = places.get(role.name, (0, 0))
        found.append(dataclasses.replace(role, group=group, first_node=first))
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
