"""What is interrupted: each thing a run writes that a resumed run reads, and ways to do it that are known to be bad.

No torch, so that the process is small and forks fast: a file of weights is its length and that many bytes,
written with the calls that ``weights_file`` makes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.grpo import checkpoint, journal
from jobs.grpo.checkpoint import State
from jobs.grpo.prompts import Cursor
from orchestrator import ledger, rendezvous
from orchestrator.files import PRIVATE_FILE, read_json, write_json
from orchestrator.run_directory import RunDirectory

SETTINGS = "5e771465"
WEIGHTS = ("model/model-00001-of-00002", "model/model-00002-of-00002", "optimizer/moments/model")
CONFIG = "model/config.json"
KEY_LENGTH = 43
"""Of 32 bytes as ``secrets.token_urlsafe`` writes them."""
Content = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Something that changes files, and how to tell what is there afterwards.

    Attributes:
        name: For people.
        prepare: Makes what is there before.
        act: Is interrupted. What it has done when it returns has to be there from then on.
        load: Returns what is there, in full, so that two answers can be compared. It may raise anything.
        again: Does the next such thing, given what ``load`` said; returns what ``load`` has to say then.
        also: Further states that may be found after a fault, made by these functions out of ``prepare``.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], object]
    load: Callable[[Path], Any]
    again: Callable[[Path, Any], Any]
    also: tuple[Callable[[Path], None], ...] = ()


# --- Checkpoints -------------------------------------------------------------------------------------------


def weights(step: int, name: str) -> bytes:
    """Return the bytes of a file of weights; no two steps share any."""
    return f"{name} of step {step}; ".encode() * 8


def write_weights(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb", buffering=64) as file:
        file.write(len(content).to_bytes(8, "little"))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_weights(path: Path) -> bytes:
    content = path.read_bytes()
    if int.from_bytes(content[:8], "little") != len(content) - 8:
        raise ValueError(f"{path} is cut off")
    return content[8:]


def write_policy(folder: Path, step: int) -> None:
    """Write what a policy writes: weights in shards, moments, a configuration that nobody has synced."""
    for name in WEIGHTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_weights(folder / name, weights(step, name))
    (folder / CONFIG).write_text(json.dumps({"of_step": step}))


def state(step: int) -> State:
    return State(step=step, cursor=Cursor(epoch=1, offset=step), settings_sha256=SETTINGS)


def save(root: Path, step: int, content: int | None = None) -> None:
    """Save a checkpoint; ``content`` decides the tensors if the step does not."""
    folder = checkpoint.begin(root, step)
    write_policy(folder, step if content is None else content)
    checkpoint.commit(folder, state(step), 1, lambda: None)


def save_what_ranks_wrote(root: Path, step: int) -> None:
    """Save a checkpoint whose files other processes have synced and hashed."""
    folder = checkpoint.begin(root, step)
    write_policy(folder, step)
    written = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(folder)): checkpoint.digest(path, sync=True) for path in written}
    checkpoint.commit(folder, state(step), 1, lambda: None, digests)


def save_and_prune(root: Path, step: int) -> None:
    save(root, step)
    checkpoint.prune(root, keep_last=1, keep_every=None)


def contents(folder: Path) -> Content:
    """Return what is in every file of a policy."""
    return {name: read_weights(folder / name) for name in WEIGHTS} | {CONFIG: json.loads((folder / CONFIG).read_text())}


def expected_contents(step: int) -> Content:
    return {name: weights(step, name) for name in WEIGHTS} | {CONFIG: {"of_step": step}}


def newest(root: Path) -> tuple[State, Content] | None:
    found = checkpoint.newest(root)
    return None if found is None else (found.state, contents(found.folder))


def saved_again(root: Path, _found: object) -> tuple[State, Content]:
    save_and_prune(root, 90)
    if [path.name for path in root.glob("*") if not path.name.startswith("step_")]:
        raise ValueError(f"{root} keeps what is no checkpoint: {sorted(path.name for path in root.iterdir())}")
    return state(90), expected_contents(90)


def checkpoint_scenario(name: str, steps: list[int], act: Callable[[Path], object], **more: Any) -> Scenario:
    def prepare(root: Path) -> None:
        for step in steps:
            save(root, step)

    return Scenario(**({"name": name, "prepare": prepare, "act": act, "load": newest, "again": saved_again} | more))


def damage(root: Path, step: int) -> None:
    path = root / checkpoint.folder_name(step) / WEIGHTS[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def ten_and_a_damaged_twenty(root: Path) -> None:
    save(root, 10)
    save(root, 20)
    damage(root, 20)


# --- Journal -----------------------------------------------------------------------------------------------


def records(step: int, count: int = 3) -> list[journal.Record]:
    return [{"tokens": [step, i], "logprobs": [-0.1 * step, float(i)], "text": "x" * 50} for i in range(count)]


def append(folder: Path, step: int, count: int = 3) -> None:
    journal.append(folder, step, SETTINGS, records(step, count))


def journal_of(*steps: int) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for step in steps:
            append(folder, step)

    return prepare


def read_steps(*steps: int) -> Callable[[Path], Any]:
    return lambda folder: [journal.read(folder, step, SETTINGS) for step in steps]


def append_13(folder: Path, found: list[Any]) -> list[Any]:
    append(folder, 13)
    return [*found[:2], records(13)]


def prune_to_2(folder: Path, found: list[Any]) -> list[Any]:
    journal.prune(folder, 2)
    if journal.steps(folder) != [3]:
        raise ValueError(f"the journal has steps {journal.steps(folder)} after pruning")
    return found


def read_pruned(folder: Path) -> Any:
    """Return what has to stay; raise if what is being pruned is neither whole nor gone."""
    for step in (1, 2):
        if journal.read(folder, step, SETTINGS) not in (records(step), None):
            raise ValueError(f"step {step} is in pieces")
    return journal.read(folder, 3, SETTINGS)


# --- Small files -------------------------------------------------------------------------------------------


def event(folder: Path, number: int) -> None:
    ledger.Ledger(folder / "ledger.jsonl", 1).append("happened", number=number, text="y" * 40)


def events(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    return [(found.event, found.fields) for found in ledger.read(folder / "ledger.jsonl")]


def torn_event(folder: Path) -> None:
    event(folder, 1)
    event(folder, 2)
    path = folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-30])


def third_event(folder: Path, found: list[Any]) -> list[Any]:
    event(folder, 3)
    return [*found, ("happened", {"number": 3, "text": "y" * 40})]


def write_record(folder: Path, number: int) -> None:
    write_json(folder / "record.json", {"number": number, "text": "z" * 100})


def write_third(folder: Path, _found: object) -> Any:
    write_record(folder, 3)
    return {"number": 3, "text": "z" * 100}


def make_key(folder: Path) -> None:
    rendezvous.api_key(RunDirectory(folder), "judge")


def key_length(folder: Path) -> int | None:
    """Return how long the key is, which is drawn at random; None if there is none."""
    path = RunDirectory(folder).secrets / "judge.key"
    return len(path.read_text()) if path.exists() else None


def make_key_again(folder: Path, _found: object) -> int:
    make_key(folder)
    return KEY_LENGTH


def nothing(_folder: Path) -> None:
    """Prepare nothing."""


OURS = (
    checkpoint_scenario("checkpoint: save over an older one", [10], lambda root: save(root, 20)),
    checkpoint_scenario("checkpoint: the first one", [], lambda root: save(root, 10)),
    checkpoint_scenario("checkpoint: ranks wrote its files", [10], lambda root: save_what_ranks_wrote(root, 20)),
    checkpoint_scenario("checkpoint: save, then prune", [10, 20], lambda root: save_and_prune(root, 30)),
    checkpoint_scenario(
        "checkpoint: prune three",
        [10, 20, 30, 40],
        lambda root: checkpoint.prune(root, keep_last=1, keep_every=None),
    ),
    # An attempt that was given up has saved the same step. While it is replaced, the one before it may be found:
    # that is the one this attempt went on from.
    checkpoint_scenario(
        "checkpoint: a step saved before",
        [10, 20],
        lambda root: save(root, 20, content=21),
        also=(lambda root: save(root, 10),),
    ),
    checkpoint_scenario(
        "checkpoint: a damaged one is set aside",
        [],
        checkpoint.newest,
        prepare=ten_and_a_damaged_twenty,
    ),
    Scenario(
        name="journal: append",
        prepare=journal_of(11),
        act=lambda folder: append(folder, 12),
        load=read_steps(11, 12, 13),
        again=append_13,
    ),
    Scenario(
        name="journal: a step collected anew",
        prepare=journal_of(11, 12),
        act=lambda folder: append(folder, 12, count=5),
        load=read_steps(11, 12, 13),
        again=append_13,
    ),
    Scenario(
        name="journal: prune",
        prepare=journal_of(1, 2, 3),
        act=lambda folder: journal.prune(folder, 2),
        load=read_pruned,
        again=prune_to_2,
    ),
    Scenario(
        name="ledger: append",
        prepare=lambda folder: event(folder, 1),
        act=lambda folder: event(folder, 2),
        load=events,
        again=third_event,
    ),
    Scenario(
        name="ledger: the first event", prepare=nothing, act=lambda f: event(f, 1), load=events, again=third_event
    ),
    Scenario(
        name="ledger: after a torn line",
        prepare=torn_event,
        act=lambda folder: event(folder, 2),
        load=events,
        again=third_event,
    ),
    Scenario(
        name="files: replace a JSON file",
        prepare=lambda folder: write_record(folder, 1),
        act=lambda folder: write_record(folder, 2),
        load=lambda folder: read_json(folder / "record.json"),
        again=write_third,
    ),
    Scenario(
        name="rendezvous: draw a service's key", prepare=nothing, act=make_key, load=key_length, again=make_key_again
    ),
)
"""What a run does. No fault may do harm to any of these."""


# --- How it must not be done -------------------------------------------------------------------------------


def save_in_place(root: Path, step: int) -> None:
    folder = root / checkpoint.folder_name(step)
    folder.mkdir(parents=True)
    write_policy(folder, step)
    write_json(folder / "state.json", asdict(state(step)))


def highest_number(root: Path) -> tuple[State, Content]:
    """Return the last checkpoint by name, as loaders do that know no manifest."""
    folder = root / checkpoint.folder_name(max(checkpoint.steps(root)))
    record = read_json(folder / "state.json")
    return State(**(record | {"cursor": Cursor(**record["cursor"])})), contents(folder)


def in_place_again(root: Path, _found: object) -> tuple[State, Content]:
    save_in_place(root, 90)
    return state(90), expected_contents(90)


def save_unsynced(root: Path, step: int) -> None:
    """Save as ever, on a disk that is never told to write."""
    sync, os.fsync = os.fsync, lambda _descriptor: None
    try:
        save(root, step)
    finally:
        os.fsync = sync


def delete_then_save(root: Path, step: int) -> None:
    shutil.rmtree(root / checkpoint.folder_name(10))
    save(root, step)


def write_in_place(folder: Path, number: int) -> None:
    (folder / "record.json").write_text(json.dumps({"number": number, "text": "z" * 100}))


def append_unchecked(folder: Path, number: int) -> None:
    """Append a line without asking how much of it was written."""
    line = json.dumps({"at": 0.0, "generation": 1, "event": "happened", "number": number, "text": "y" * 40})
    descriptor = os.open(folder / "ledger.jsonl", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, line.encode() + b"\n")
    os.fsync(descriptor)
    os.close(descriptor)


BAD = (
    Scenario(
        name="bad: save in place, the highest number is loaded",
        prepare=lambda root: save_in_place(root, 10),
        act=lambda root: save_in_place(root, 20),
        load=highest_number,
        again=in_place_again,
    ),
    checkpoint_scenario("bad: save without fsync", [10], lambda root: save_unsynced(root, 20)),
    checkpoint_scenario("bad: delete the old one, then save", [10], lambda root: delete_then_save(root, 20)),
    Scenario(
        name="bad: write a JSON file in place",
        prepare=lambda folder: write_in_place(folder, 1),
        act=lambda folder: write_in_place(folder, 2),
        load=lambda folder: read_json(folder / "record.json"),
        again=write_third,
    ),
    Scenario(
        name="bad: append without looking at what was written",
        prepare=lambda folder: event(folder, 1),
        act=lambda folder: append_unchecked(folder, 2),
        load=events,
        again=third_event,
    ),
)
"""What others do. Faults have to do harm to each of these, or the harness sees nothing."""
