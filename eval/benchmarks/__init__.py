"""Readers of public benchmarks, from the files that people download; nothing is downloaded here.

A reader is ``load(path, options) -> list[Example]``, one file a benchmark. Without a prompt in the
options a problem is asked as system A asks it: the question, then ``Choices:`` and ``A. ..`` a line;
``prompt: own`` asks in the benchmark's own words, for which ``format_prompt`` should be empty. A text
with ``{question}`` in it goes around system A's. ``SOURCES`` imports nothing, so a login node may read it.
"""

from __future__ import annotations

SOURCES = {
    "mathvista": "eval.benchmarks.mathvista:load",
    "mathverse": "eval.benchmarks.mathverse:load",
    "mathvision": "eval.benchmarks.mathvision:load",
    "wemath": "eval.benchmarks.wemath:load",
    "mmmu": "eval.benchmarks.mmmu:load",
    "mmmu_dev": "eval.benchmarks.mmmu:load_dev",
    "mmmu_pro": "eval.benchmarks.mmmu:load_pro",
    "mmstar": "eval.benchmarks.mmstar:load",
    "emma": "eval.benchmarks.emma:load",
}
"""For ``jobs.data.SOURCES``."""

_DOWNLOAD = "Get it with `hf download --repo-type dataset {repository} --local-dir {folder}`{then}."
HOW_TO_GET = {
    "mathvista": _DOWNLOAD.format(
        repository="AI4Math/MathVista", folder="data/MathVista", then=" and name data/MathVista/data/testmini-*.parquet"
    ),
    "mathverse": _DOWNLOAD.format(
        repository="AI4Math/MathVerse", folder="data/MathVerse", then=" and name data/MathVerse/testmini.parquet"
    ),
    "mathvision": _DOWNLOAD.format(
        repository="MathLLMs/MathVision", folder="data/MathVision", then=" and name its data/test-*.parquet"
    ),
    "wemath": _DOWNLOAD.format(
        repository="We-Math/We-Math", folder="data/We-Math", then=" and name its testmini-*.parquet"
    )
    + " Or name data/testmini.json of github.com/We-Math/We-Math.",
    "mmmu": _DOWNLOAD.format(
        repository="MMMU/MMMU", folder="data/MMMU", then=" and name data/MMMU, or a subject in it"
    ),
    "mmmu_pro": _DOWNLOAD.format(
        repository="MMMU/MMMU_Pro",
        folder="data/MMMU_Pro",
        then=" and name data/MMMU_Pro/'standard (10 options)' or data/MMMU_Pro/vision",
    ),
    "mmstar": _DOWNLOAD.format(
        repository="Lin-Chen/MMStar", folder="data/MMStar", then=" and name data/MMStar/mmstar.parquet"
    ),
    "emma": _DOWNLOAD.format(
        repository="luckychao/EMMA", folder="data/EMMA", then=" and name data/EMMA, or a subject in it"
    ),
}
HOW_TO_GET["mmmu_dev"] = HOW_TO_GET["mmmu"]
"""For the error that says a file is not there."""
OWN = "own"
"""The prompt that stands for the benchmark's own."""
