"""What can be said to Slurm and to a node about one role: partition, modules, container and so on.

Every value ends in a script or in an argv, so each kind has a pattern, and none holds a line break.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from orchestrator.values import Environment, Strict, listed

NODE_KEYS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "reservation",
    "exclude",
    "gpu_type",
    "exclusive",
    "extra",
)
"""Decide which nodes Slurm gives; roles that differ in them cannot share nodes."""
STEP_KEYS = ("modules", "setup", "virtual_environment", "python", "container")
"""Decide how a role is started on its nodes."""

# fmt: off
OURS = frozenset({
    "array", "chdir", "clusters", "comment", "cpus-per-task", "dependency", "error", "export", "export-file",
    "get-user-env", "gid", "gpus-per-node", "hold", "input", "job-name", "kill-on-invalid-dep", "mem",
    "no-kill", "no-requeue", "nodefile", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output",
    "parsable", "requeue", "signal", "test-only", "time", "uid", "wait", "wrap",
})
# fmt: on
"""Options of sbatch on which the restarts, the logs or the safety of a run depend."""
OWN_KEY = {key.replace("_", "-"): key for key in NODE_KEYS if key not in ("gpu_type", "extra")}
_EXTRA = re.compile(r"--([a-z][a-z0-9-]*)(=[A-Za-z0-9_.,:;@%+/()\[\]|&*^~=-]*)?")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:@+/-]*$", max_length=256)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]*$", max_length=128)]
Constraint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_(\[][A-Za-z0-9_.:,|&*!()\[\]+-]*$", max_length=512)]
Nodes = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*$", max_length=4096)]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+@=/-]*$", max_length=256)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=4096)]
Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./][^\x00-\x20\x7f]*$", max_length=4096)]
Mount = Annotated[
    str,
    StringConstraints(pattern=r"^/[^\x00-\x20\x7f:,]*(:/[^\x00-\x20\x7f:,]*(:(ro|rw))?)?$", max_length=4096),
]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]
Option = Annotated[str, StringConstraints(pattern=r"^-[^\x00-\x1f\x7f]*$", max_length=4096)]


def _lines(value: object) -> object:
    return tuple(value.splitlines()) if isinstance(value, str) else listed(value)


class Container(Strict):
    """The container in which a role's program runs. The supervisor itself runs outside."""

    engine: Literal["apptainer", "pyxis"]
    """``apptainer`` wraps the program on its node; ``pyxis`` is Slurm's plugin for enroot."""
    image: Image
    """An image's file (``/images/a.sif``, ``/images/a.sqsh``) or address (``docker://...``, ``nvcr.io#...``)."""
    python: Image = "python3"
    """The interpreter inside the image."""
    mounts: Annotated[tuple[Mount, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])] = ()
    """Folders to show inside: ``/data``, ``/scratch:/tmp``, ``/models:/models:ro``; the checkout and the run are."""
    options: Annotated[tuple[Option, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])] = ()
    """More options, each beginning with ``-``: of ``apptainer exec``, or ``--container-...`` of ``srun``."""

    @model_validator(mode="after")
    def _only_pyxis_options_reach_srun(self) -> Container:
        wrong = [option for option in self.options if not re.match(r"--(no-)?container-", option)]
        if self.engine == "pyxis" and wrong:
            raise ValueError(
                f"{wrong[0]!r} is no option of pyxis. Those begin with '--container-' or '--no-container-'."
            )
        return self


class SlurmOptions(Strict):
    """What Slurm and the nodes need to know for one kind of node. Everything left out is the site's default."""

    partition: Name | None = None
    """``--partition``. Several, with commas, let Slurm choose."""
    account: Name | None = None
    """``--account``."""
    qos: Name | None = None
    """``--qos``."""
    constraint: Constraint | None = None
    """``--constraint``: features that the nodes must have, ``a100&nvlink``."""
    reservation: Name | None = None
    """``--reservation``."""
    exclude: Annotated[tuple[Nodes, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])] = ()
    """``--exclude``: nodes never to be given, ``[node7, "node[12-14]"]``."""
    gpu_type: Word | None = None
    """The type in ``--gpus-per-node=TYPE:N``."""
    exclusive: bool | None = None
    """``--exclusive``: whole nodes, shared with nobody."""
    extra: Annotated[tuple[str, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])] = ()
    """More options of sbatch, each beginning with ``--``: ``["--licenses=scratch"]``."""
    modules: Annotated[tuple[Module, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])] = ()
    """Environment modules to load, in this order. A role's are loaded after the site's."""
    virtual_environment: AbsolutePath | None = None
    """A folder with ``bin/python`` that all nodes see."""
    python: AbsolutePath | None = None
    """The interpreter, where it is not in a virtual environment."""
    container: Container | None = None
    """Run the program in a container."""
    environment: Environment = Field(default_factory=dict)
    """Added to the environment. Not for secrets."""

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for option in given:
            _check_extra(option)
        return given

    @model_validator(mode="after")
    def _one_interpreter(self) -> SlurmOptions:
        if self.python is not None and self.virtual_environment is not None:
            raise ValueError("python and virtual_environment name two interpreters. Keep one of them.")
        return self

    @property
    def interpreter(self) -> str | None:
        """The interpreter outside of containers; None leaves it to whoever starts the program."""
        return self.python or (f"{self.virtual_environment}/bin/python" if self.virtual_environment else None)


class SiteOptions(SlurmOptions):
    """The same, with what only those may say who look after the site."""

    setup: Annotated[tuple[Line, ...], BeforeValidator(_lines, json_schema_input_type=str | list[str])] = ()
    """Lines of bash, run after the modules are loaded. One that fails does not end the job; ``fail WORDS`` does."""


def _check_extra(option: str) -> None:
    match = _EXTRA.fullmatch(option)
    if match is None:
        raise ValueError(
            f"{option!r} is not an option of sbatch. Write --name or --name=value, without spaces and quotes."
        )
    name = match.group(1)
    # sbatch takes any beginning of a name for the name, so --dep=... would be a dependency too.
    for key in OWN_KEY:
        if key.startswith(name):
            raise ValueError(f"{option!r} has a key of its own. Write {OWN_KEY[key]}: instead.")
    for ours in sorted(OURS):
        if ours.startswith(name):
            raise ValueError(f"{option!r} would change --{ours}, which is set for every run. Leave it out.")


def merged(*layers: SlurmOptions) -> SiteOptions:
    """Return one set of options, what a later layer says going before what an earlier one does.

    Environments are added up. A layer that names an interpreter takes back the one named below it, in
    whichever of the two ways that was done.
    """
    found: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for layer in layers:
        said = {key: getattr(layer, key) for key in layer.model_fields_set if key in SiteOptions.model_fields}
        if {"python", "virtual_environment"} & said.keys():
            found.pop("python", None)
            found.pop("virtual_environment", None)
        environment |= layer.environment
        found |= said
    return SiteOptions(**(found | {"environment": environment}))


def chosen(options: SlurmOptions, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return what was said of ``keys``, as JSON; what was not said is left out."""
    return options.model_dump(mode="json", include=set(keys), exclude_defaults=True)


def read(options: Mapping[str, Any]) -> SiteOptions:
    """Return the options that ``chosen`` wrote into a plan."""
    return SiteOptions.model_validate(dict(options))
