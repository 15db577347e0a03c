"""One checkpoint of a run as a Hugging Face folder: ``python -m jobs.grpo.export runs/geo3k OUT --step 40``.

A checkpoint's ``model/`` is such a folder already, in float32 as it is trained. This verifies it, writes it in the
type that models are handed on in, and says where it comes from.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from uuid import uuid4

from jobs import entry
from jobs.grpo import checkpoint
from jobs.grpo.checkpoint import MODEL_FOLDER
from orchestrator.errors import ConflictError, InputError, NotFound, OrchestratorError
from orchestrator.files import write_json
from orchestrator.run_directory import RunDirectory

DTYPES = ("bfloat16", "float16", "float32")


def export(run: RunDirectory, out: Path, *, step: int | None = None, dtype: str = "bfloat16") -> int:
    """Write a checkpoint's model to ``out`` and return its step.

    Args:
        run: The run.
        out: A folder that does not exist yet; it is there in full or not at all.
        step: Of the checkpoint; None is the newest.
        dtype: Of the weights.

    Raises:
        ConflictError: ``out`` exists.
        NotFound: There is no such checkpoint.
        InputError: The checkpoint is damaged.
    """
    if out.exists():
        raise ConflictError(f"{out}: exists already. Name a new folder.")
    found = _chosen(run, step)
    folder = run.checkpoints / checkpoint.folder_name(found)
    fault = checkpoint.find_fault(folder)
    if fault is not None:
        raise InputError(f"{folder}: {fault} Choose another step.")
    from jobs import vlm  # seconds, not to be waited for by who named a wrong folder

    beside = out.with_name(f".{out.name}.{uuid4().hex[:8]}.tmp")
    source = folder / MODEL_FOLDER
    vlm.load_model(source, dtype=dtype, trainable=False).save_pretrained(beside)
    vlm.load_processor(source).save_pretrained(beside)
    write_json(beside / "exported.json", {"run": str(run.path), "step": found, "dtype": dtype}, mode=0o644)
    os.rename(beside, out)
    return found


def _chosen(run: RunDirectory, step: int | None) -> int:
    steps = checkpoint.steps(run.checkpoints)
    if not steps:
        raise NotFound(f"{run.checkpoints}: no checkpoint is committed there. Give a run's folder.")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise NotFound(f"{run.checkpoints}: no checkpoint of step {step}. There are: {', '.join(map(str, steps))}.")
    return step


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.grpo.export", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the weights (default: bfloat16)")
    given = parser.parse_args(arguments)
    try:
        step = export(RunDirectory(given.run.absolute()), given.out.absolute(), step=given.step, dtype=given.dtype)
    except OrchestratorError as error:
        return entry.exit_with(error)
    print(f"step {step} in {given.dtype}: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
