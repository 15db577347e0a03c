"""The order of test files: the longest first, so that two workers end together and the models are built once."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=10)
"""For `make check`: a tenth of the examples; `make test` tries them all."""

FIRST = ("test_end_to_end.py", "test_slurm_faults.py")
LAST = ("test_kills.py", "test_slurm_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; within a file the order stays."""

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return FIRST.index(name) - len(FIRST) if name in FIRST else 1 + LAST.index(name) if name in LAST else 0

    items.sort(key=place)
