"""What evaluation costs: ``python -m bench.eval coco``, ``endpoint``, ``report``.

``coco`` takes COCO's twelve numbers of generated detections with ours and with pycocotools, in turns in
one process: ours, theirs, ours. Both begin with the same lists in memory and end with the numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from bench import eval_endpoint, report
from bench.coco_cases import Cases, generated
from eval import coco_map

OTHERS = {"endpoint": eval_endpoint, "report": report}
"""Parts in files of their own, which take the rest of the words."""
TOLERANCE = 1e-9
FASTER = 8.0
"""How many times faster than pycocotools ours must be."""


@dataclass(frozen=True, kw_only=True)
class _Took:
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """Both implementations on the same boxes.

    Attributes:
        cases: What was generated.
        ours_s: Seconds of each of our turns.
        theirs_s: Seconds of pycocotools.
        ours_cpu_s: Seconds of the processor, which others on the machine change less.
        theirs_cpu_s: The same of pycocotools.
        difference: The largest difference of any of the twelve numbers.
        stats: The numbers.
        versions: Of both libraries.
    """

    cases: Cases
    ours_s: tuple[float, ...]
    theirs_s: float
    ours_cpu_s: tuple[float, ...]
    theirs_cpu_s: float
    difference: float
    stats: Mapping[str, float | None]
    versions: Mapping[str, str]

    @property
    def faster(self) -> float:
        """How many times ours is faster, by the mean of its turns before and after."""
        return self.theirs_s / statistics.fmean(self.ours_s)

    @property
    def faster_cpu(self) -> float:
        """The same by seconds of the processor."""
        return self.theirs_cpu_s / statistics.fmean(self.ours_cpu_s)


def coco(cases: Cases) -> CocoResult:
    """Take the twelve numbers with ours, pycocotools and ours again."""
    truth, results = generated(cases)
    coco_map.stats(*generated(Cases(images=1, boxes=1)))  # imports are paid once, not per evaluation
    before, _ = _timed(coco_map.stats, truth, results)
    theirs, expected = _timed(by_pycocotools, truth, results)
    after, found = _timed(coco_map.stats, truth, results)
    return CocoResult(
        cases=cases,
        ours_s=(before.wall_s, after.wall_s),
        theirs_s=theirs.wall_s,
        ours_cpu_s=(before.cpu_s, after.cpu_s),
        theirs_cpu_s=theirs.cpu_s,
        difference=difference(found, expected),
        stats=found,
        versions={name: version(name) for name in ("faster-coco-eval", "pycocotools", "numpy")},
    )


def by_pycocotools(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the twelve numbers of the reference, -1 where there is nothing of a kind."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = {**truth, "annotations": [dict(annotation) for annotation in truth["annotations"]]}
        annotated.createIndex()
        evaluation = COCOeval(annotated, annotated.loadRes([dict(result) for result in results]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def difference(found: Mapping[str, float | None], expected: Sequence[float]) -> float:
    """Return the largest difference; what only one of the two has a number for differs by infinity."""
    pairs = zip(found.values(), expected, strict=True)
    return max(0.0 if ours is None and theirs < 0 else _distance(ours, theirs) for ours, theirs in pairs)


def _distance(ours: float | None, theirs: float) -> float:
    return float("inf") if ours is None or theirs < 0 else abs(ours - theirs)


def _timed(function: Any, *arguments: Any) -> tuple[_Took, Any]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return _Took(wall_s=time.perf_counter() - wall_s, cpu_s=time.process_time() - cpu_s), result


def _coco(arguments: argparse.Namespace) -> int:
    cases = Cases(images=arguments.images, boxes=arguments.boxes, seed=arguments.seed, scores=arguments.scores)
    found = coco(cases)
    print(json.dumps({**asdict(found), "faster": found.faster, "faster_cpu": found.faster_cpu}, indent=2))
    agrees, fast = found.difference <= TOLERANCE, found.faster >= FASTER
    print(
        f"{cases.images} images x {cases.boxes} boxes: ours {statistics.fmean(found.ours_s):.1f} s, pycocotools "
        f"{found.theirs_s:.1f} s.\n{found.faster:.1f} times faster, {found.faster_cpu:.1f} by the processor's time; "
        f"{FASTER:g} asked: {'yes' if fast else 'no'}.\nLargest difference {found.difference:.1e}; "
        f"{TOLERANCE:g} allowed: {'yes' if agrees else 'no'}."
    )
    return 0 if agrees and fast else 1


def main(arguments: list[str] | None = None) -> int:
    """Run one part; 1 if it misses what is asked of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.eval", description=(__doc__ or "").split("\n\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("coco", help="COCO's twelve numbers against pycocotools; the default takes ten minutes")
    part.add_argument("--images", type=int, default=5000)
    part.add_argument("--boxes", type=int, default=100, help="true boxes in each image, and as many predictions")
    part.add_argument("--scores", choices=("many", "few", "one"), default="many", help="different scores of boxes")
    part.add_argument("--seed", type=int, default=0)
    part.set_defaults(run=_coco)
    for name, others in OTHERS.items():
        parts.add_parser(name, help=f"python -m {others.__name__}", add_help=False)
    given, rest = parser.parse_known_args(arguments)
    if given.part in OTHERS:
        return OTHERS[given.part].main(rest)
    if rest:
        parser.error(f"unrecognised: {' '.join(rest)}")
    code: int = given.run(given)
    return code


if __name__ == "__main__":
    sys.exit(main())
