"""The command line of an evaluation: words that become a settings file beside the answers.

What was asked for is written to ``settings.yaml`` in the output folder, so that the folder says how it was made and
``--settings`` repeats it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from jobs import data
from jobs.data.settings import HOW_TO_GET
from orchestrator.errors import InputError, NotFound, Problem, all_at_once
from orchestrator.files import private_folder, write_text

SOURCE_OF = {"geometry3k": "geo3k"}
"""Sources of tasks that have another name; of others the task's own name, where it is a source's."""
OWN_SOURCE = re.compile(r"((?:\w+\.)*\w+:\w+):(.+)")
FOLDER = re.compile(r"[^A-Za-z0-9._-]+")
EVALUATIONS = Path("evaluations")
WITH_TASK = ("model", "endpoint", "checkpoint", "data", "limit", "label")


def settled(arguments: list[str] | None = None) -> list[str]:
    """Return the arguments as ``jobs.entry`` takes them; for ``--task`` it writes the settings that they mean.

    Raises:
        InputError: They contradict each other; all problems are told.
        NotFound: There is no such checkpoint.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.task is None:
        stray = [f"--{name}" for name in WITH_TASK if getattr(given, name)]
        if stray or given.change:
            parser.error(f"{', '.join(stray or ['--with'])} goes with --task")
        named = {"--run-dir": given.run_dir, "--role": given.role, "--settings": given.settings, "--out": given.out}
        return [str(word) for name, value in named.items() if value is not None for word in (name, value)]
    if given.run_dir or given.role or given.settings:
        parser.error("--task goes with neither --run-dir and --role nor --settings")
    label, settings = settings_of(given)
    out = (given.out or EVALUATIONS / f"{given.task}-{label}").absolute()
    file = private_folder(out) / "settings.yaml"
    write_text(file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return ["--settings", str(file), "--out", str(out)]


def settings_of(given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the model's label and the settings that the words mean."""
    problems = []
    models = [name for name in ("model", "endpoint", "checkpoint") if getattr(given, name)]
    if len(models) != 1:
        told = " and ".join(f"--{name}" for name in models) or "nothing"
        problems.append(
            Problem(place="--model", fact=f"One of --model, --endpoint and --checkpoint says what answers, got {told}.")
        )
    if given.data is None:
        problems.append(Problem(place="--data", fact="The problems' file is missing."))
    if problems:
        raise all_at_once("eval.run", problems)
    label, model = _model(given)
    task: dict[str, Any] = _data(given.task, given.data)
    task |= {"limit": given.limit} if given.limit else {}
    settings: dict[str, Any] = {"models": {given.label or label: model}, "tasks": {given.task: task}}
    for change in given.change:
        _change(settings, change, given.task)
    return given.label or label, settings


def checkpoint_model(text: str) -> tuple[str, Path]:
    """Return the label and the model's folder of ``RUN`` or ``RUN:STEP``; without a step the newest.

    Raises:
        NotFound: There is no such run or checkpoint.
        InputError: The step is no number, or the checkpoint is damaged.
    """
    from jobs.grpo import checkpoint

    run, colon, step = text.rpartition(":")
    run, step = (run, step) if colon and not Path(text).is_dir() else (text, "")
    if step and not step.isdigit():
        raise InputError(f"--checkpoint: {step!r} is not a step. Write RUN or RUN:STEP, such as runs/geo3k:40.")
    folder = next((path for path in (Path(run), Path("runs") / run) if (path / "checkpoints").is_dir()), None)
    if folder is None:
        raise NotFound(f"--checkpoint: {run} has no checkpoints. Give a run's folder, or its name below runs/.")
    steps = checkpoint.steps(folder / "checkpoints")
    wanted = int(step) if step else max(steps, default=-1)
    if wanted not in steps:
        there = f"There are: {', '.join(map(str, steps))}." if steps else "There is none yet."
        raise NotFound(f"--checkpoint: {folder} has no checkpoint of step {step or '1 or later'}. {there}")
    place = folder.absolute() / "checkpoints" / checkpoint.folder_name(wanted)
    fault = checkpoint.find_fault(place)
    if fault is not None:
        raise InputError(f"{place}: {fault} Choose another step.")
    return f"{folder.absolute().name}-step{wanted}", place / checkpoint.MODEL_FOLDER


def source_and_path(task: str, text: str) -> tuple[str, str]:
    """Return the source and the path of ``SOURCE:PATH`` or ``PATH``, whose source is then the task's.

    Raises:
        InputError: No source is named, and the task's name is none.
    """
    before, colon, rest = text.partition(":")
    if colon and before in data.SOURCES:
        return before, rest
    own = OWN_SOURCE.fullmatch(text)
    if own and not Path(text).exists():
        return own[1], own[2]
    source = SOURCE_OF.get(task.lower(), task.lower())
    if source not in data.SOURCES:
        raise InputError(
            f"--data: {text!r} names no source, and {task!r} is none. Write SOURCE:PATH with one of "
            f"{', '.join(sorted(data.SOURCES))}, or package.module:function:PATH."
        )
    return source, text


def _model(given: argparse.Namespace) -> tuple[str, Any]:
    if given.checkpoint:
        label, folder = checkpoint_model(given.checkpoint)
        return _folder(label), str(folder)
    if given.endpoint:
        endpoint = {"url": given.endpoint} | ({"api_key_file": given.api_key_file} if given.api_key_file else {})
        name = given.endpoint_model or given.endpoint.split("//", 1)[-1].partition("/")[0]
        return _folder(name), endpoint | ({"model": given.endpoint_model} if given.endpoint_model else {})
    return _folder(Path(given.model).name), given.model


def _data(task: str, text: str) -> dict[str, Any]:
    source, path = source_and_path(task, text)
    return {"source": source, "path": path}


def _folder(name: str) -> str:
    return FOLDER.sub("-", name).strip("-._") or "model"


def _change(settings: dict[str, Any], change: str, task: str) -> None:
    """Set ``key=value`` or ``a.b=value`` in the settings; ``task.x`` is of the one task."""
    name, equals, value = change.partition("=")
    keys = name.split(".")
    if not equals or not all(keys):
        raise InputError(f"--with: {change!r} is not key=value, such as max_new_tokens=512 or vllm.max_num_seqs=64.")
    keys = ["tasks", task, *keys[1:]] if keys[0] == "task" else keys
    place: Any = settings
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise InputError(f"--with: {name} lies below {key}, which is {place!r}. Leave one of the two out.")
    try:
        place[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--with: {value!r} cannot be read as YAML: {error}.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description="Let models answer the problems of tasks and measure the answers.",
        epilog=f"Sources: {', '.join(HOW_TO_GET)}, or package.module:function.",
    )
    role = parser.add_argument_group("as a role of a run")
    role.add_argument("--run-dir", type=Path, help="the run")
    role.add_argument("--role", help="the role in it")
    file = parser.add_argument_group("by hand, from a file")
    file.add_argument("--settings", type=Path, help="a YAML file of settings")
    file.add_argument("--out", type=Path, help="where to write (with --task default: evaluations/TASK-MODEL)")
    words = parser.add_argument_group("by hand, one model on one task")
    words.add_argument("--task", metavar="T", help="the task's name")
    words.add_argument("--data", metavar="[SOURCE:]PATH", help="its problems")
    words.add_argument("--model", metavar="PATH", help="a Hugging Face folder or name")
    words.add_argument("--checkpoint", metavar="RUN[:STEP]", help="a checkpoint of a run (default: its newest)")
    words.add_argument("--endpoint", metavar="URL", help="a server that speaks the OpenAI API, up to /v1")
    words.add_argument("--endpoint-model", metavar="NAME", help="which of its models (default: the only one)")
    words.add_argument("--api-key-file", metavar="FILE", help="the server's key")
    words.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    words.add_argument("--label", help="what to call the model (default: its folder's name)")
    words.add_argument(
        "--with", dest="change", action="append", default=[], metavar="KEY=VALUE",
        help="a setting, such as engine=vllm, max_new_tokens=512, task.prompt='...'",
    )  # fmt: skip
    return parser
