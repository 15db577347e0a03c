"""Makes transformers and vLLM importable where torch is built for the CPU and its companions for CUDA.

The CPU build of vLLM brings a torchvision, a torchaudio and a torchcodec whose compiled libraries
need CUDA. Importing any of them fails beside a CPU torch, and with it ``AutoProcessor``, every
Qwen-VL class of transformers and vLLM's server; some paths fail silently and drop the images.

- torchvision's Python part stumbles over shape functions for two operators that nobody defined.
  Only these two names are declared here. Nothing of ours calls them; resizing and normalising use
  torch's own operators, so pixels are what a matching torchvision computes.
- torchaudio and torchcodec are of no use to us and are hidden: whoever asks whether they are
  installed hears no.

Every process that imports transformers' image code calls ``repair`` first (``jobs.vlm`` does it on
import). A program of others is started through this module, which repairs and then runs it, also
in the processes that it spawns:

    python -m jobs.torchvision_cpu vllm.entrypoints.openai.api_server --model ...
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_HIDDEN = {"torchaudio": "lib/_torchaudio*.so", "torchcodec": "libtorchcodec_image*.so"}
# The libraries must outlive `repair`: torch forgets the operators of a collected one.
_DECLARED: list[torch.library.Library] = []


def repair() -> None:
    """Declare torchvision's two box operators and hide torchaudio and torchcodec, where they cannot load.

    Does nothing on a CUDA or ROCm build of torch, nothing for a companion that is absent, already
    imported or matches the CPU build, and nothing the second time.
    """
    if torch.version.cuda is not None or torch.version.hip is not None:
        return
    # transformers imports an installed DeepSpeed, which otherwise looks for a GPU and complains that there is none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not _DECLARED and not _usable("torchvision", "_C*.so"):
        library = torch.library.Library("torchvision", "DEF")
        for schema in _OPERATORS:
            library.define(schema)
        _DECLARED.append(library)
    for package, libraries in _HIDDEN.items():
        if not _usable(package, libraries):
            # `find_spec` answers None for a module that is None here, which is what "not installed" means to it.
            sys.modules[package] = None  # type: ignore[assignment]
            _forget(package)


def _forget(package: str) -> None:
    """Make a transformers that was imported before the repair look again whether the package is there."""
    checks = sys.modules.get("transformers.utils.import_utils")
    if checks is not None:
        getattr(checks, f"is_{package}_available").cache_clear()


def _usable(package: str, libraries: str) -> bool:
    """Say whether a package is imported, absent, or installed with compiled libraries that load."""
    spec = None if package in sys.modules else find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    for library in Path(folders[0]).glob(libraries) if folders else ():
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return True


if __name__ == "__mp_main__":
    # A process spawned by the program below imports this module under this name before its own work.
    repair()

if __name__ == "__main__":
    repair()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
