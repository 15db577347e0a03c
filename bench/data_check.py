"""How fast a file of data is checked: 10,000 images of 512 x 512 pixels, every one decoded and fingerprinted.

    python -m bench.data_check --json data_check.json

The images are JPEG of quality 90 and about 90 kB, a smooth ground with noise on it, which is as hard to decode
as a photo. A few dozen are drawn; the others are copies with other bytes after their end, so that no two files
are equal and each is decoded. What counts is the whole check, reading and answers included, in images a second of
processor time of all its processes, so that others on the machine do not count; wall-clock time is beside it. PNG,
with which the decoder has more work, is measured too, without a goal. Exit code 1 if the goal was missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from bench.figures import Figure, table
from jobs.data import check
from jobs.data.settings import Data

RATE = "images checked a second of a core, 512 px"
WALL = "wall-clock time of the check, s"
GOAL = 400.0
SIDE_PX = 512
DRAWN = 48


def measure(images: int, repeats: int, processes: int | None = None) -> list[Figure]:
    """Return images a second of a core, of whole checks, and their wall-clock times, for JPEG and PNG.

    Args:
        images: Of JPEG; a fifth as many of PNG.
        repeats: Checks of either.
        processes: That decode; None takes one for each core.
    """
    cores = processes or len(os.sched_getaffinity(0))
    with TemporaryDirectory() as folder:
        jpeg = _file(Path(folder) / "jpeg", images, "JPEG")
        png = _file(Path(folder) / "png", max(images // 5, DRAWN), "PNG")
        jpegs = [_checked(jpeg, cores) for _ in range(repeats)]
        pngs = [_checked(png, cores) for _ in range(repeats)]
    note = f"{images} images, {cores} process(es)"
    rates = [rate for rate, _ in jpegs]
    return [
        Figure(what=RATE, who="JPEG", values=rates, goal=GOAL, bound="at least", note=note),
        Figure(what=RATE, who="PNG of noise", values=[rate for rate, _ in pngs]),
        Figure(what=WALL, who="JPEG", values=[wall_s for _, wall_s in jpegs], note=note),
    ]


def _checked(file: Path, cores: int) -> tuple[float, float]:
    """Return images a second of processor time, and wall-clock seconds."""
    began, spent = time.perf_counter(), _processor_s()
    report = check.check(Data(source="refcoco", path=str(file)), processes=cores)
    spent_s, wall_s = _processor_s() - spent, time.perf_counter() - began
    if report.findings:
        raise SystemExit(f"The check found faults in good data: {report.findings[0]}")
    return round(report.images / spent_s, 1), round(wall_s, 2)


def _processor_s() -> float:
    """Return the processor time of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _file(folder: Path, images: int, form: str) -> Path:
    """Write images and a file of grounding problems about them, in PR1's form; return that file."""
    folder.mkdir()
    drawn = [_picture(seed, form) for seed in range(DRAWN)]
    rows = []
    for number in range(images):
        name = f"{number}.{form.lower()}"
        # What follows the end of an image is skipped by decoders, but makes another file of it.
        (folder / name).write_bytes(drawn[number % DRAWN] + number.to_bytes(8, "big"))
        rows.append({"image": name, "problem": f"thing {number}", "solution": [10, 20, 300, 400 + number % 500]})
    file = folder / "train.json"
    file.write_text(json.dumps(rows))
    return file


def _picture(seed: int, form: str) -> bytes:
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + generator.integers(-6, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, format=form, **({"quality": 90} if form == "JPEG" else {}))
    return file.getvalue()


def main() -> int:
    """Measure, print the table, and return 1 if the goal was missed."""
    given = _arguments()
    found = measure(given.images, given.repeats, given.processes)
    print("\n".join(table(found)))
    if given.json:
        content = {"schema": 1, "images": given.images, "figures": [figure.to_json() for figure in found]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(figure.missed for figure in found) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.data_check", description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000, help="of JPEG (default: 10000)")
    parser.add_argument("--repeats", type=int, default=3, help="of either form (default: 3)")
    parser.add_argument("--processes", type=int, help="that decode (default: one for each core)")
    parser.add_argument("--json", type=Path, help="file for all numbers, as measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
