"""How one optimiser step's rows, and a checkpoint's parameters, are shared out over ranks.

Every rank computes the shares of all ranks from the same rows, so nothing has to be agreed upon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jobs.grpo.rollout import TrainingRow


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass; if they do not count they are only there so that a rank keeps step with others."""

    rows: Sequence[TrainingRow]
    counts: bool = True


Split = Callable[[Sequence[TrainingRow]], list[list[TrainingRow]]]


def micro_batches(rows: Sequence[TrainingRow], world: int, split: Split, *, even: bool) -> list[list[MicroBatch]]:
    """Return the micro-batches of every rank.

    Args:
        rows: Of all ranks.
        world: Number of ranks.
        split: Divides one rank's rows into those of one forward pass each.
        even: Give every rank equally many, and at each index either all an image or none: a vision tower that is
            spread over ranks is used by all of them or by none. Those with images come last, so that the last backward
            of a step reaches every parameter; what DeepSpeed offloads of the others it would lose.
    """
    kinds = [[r for r in rows if not r.images], [r for r in rows if r.images]] if even else [list(rows)]
    result: list[list[MicroBatch]] = [[] for _ in range(world)]
    for kind in filter(None, kinds):
        # With fewer rows than ranks some have none.
        parts = [split(share) if share else [] for share in of_rows(kind, world)]
        most = max(len(part) for part in parts)
        for rank, part in enumerate(parts):
            result[rank] += [MicroBatch(rows=micro) for micro in part]
            if even:
                result[rank] += [_filler(kind)] * (most - len(part))
    return result


def of_rows(rows: Sequence[TrainingRow], world: int) -> list[list[TrainingRow]]:
    """Return each rank's rows in their order: equally many but for one, and about equally many tokens."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].tokens), index))
    taken: list[list[int]] = [[] for _ in range(world)]
    for place, index in enumerate(order):
        turn, seat = divmod(place, world)
        # To and fro, so that no rank always takes the longer one.
        taken[seat if turn % 2 == 0 else world - 1 - seat].append(index)
    return [[rows[index] for index in sorted(indices)] for indices in taken]


def of_parameters(sizes: Mapping[str, int], world: int) -> dict[str, int]:
    """Return which rank writes each parameter: whole ones, about equally many bytes each.

    >>> of_parameters({"a": 4, "b": 3, "c": 2}, 2)
    {'a': 0, 'b': 1, 'c': 1}
    """
    loads = [0] * world
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


def _filler(rows: Sequence[TrainingRow]) -> MicroBatch:
    return MicroBatch(rows=[min(rows, key=lambda row: len(row.tokens))], counts=False)
