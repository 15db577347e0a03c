"""What an image is, found by decoding it: whether it can be, its size, and two fingerprints.

Many images are shared out to processes. One fingerprint is the sha256 of the file; the other is of
what is to be seen, and is the same after another encoding or another size.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.data import check_size
from jobs.data.bar import Advance
from orchestrator.errors import RunFailed

MARGIN = 4
"""Brightness, of 255, by which a place must differ: less comes and goes with an encoding."""
FEWEST = 8
"""Places that make a fingerprint."""
NEAR = 10
"""Places, of 256, in which two encodings of one picture may differ."""
CHUNK = 16
IN_FLIGHT = 4
"""Chunks that wait for each process; more would only take memory."""
FEW = 64
"""So many are decoded here: to start processes takes longer."""
TIMEOUT_S = 600.0
ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Look:
    """One image.

    Attributes:
        sha256: Of the file.
        alike: A fingerprint of where brightness falls between neighbours of 16 x 17 places, 64
            hexadecimal digits; empty for an image with hardly any such place, which is like all others.
        width_px: Its width.
        height_px: Its height.
        form: ``"JPEG"``, ``"PNG"``, ...
        turned: Its file says that it is to be turned, which neither boxes nor models take note of.
        fault: Why it cannot be decoded; empty if it can.
    """

    sha256: str
    alike: str = ""
    width_px: int = 0
    height_px: int = 0
    form: str = ""
    turned: bool = False
    fault: str = ""


def look(image: bytes) -> Look:
    """Return what an image is. All of its data is decoded, a JPEG's to a smaller picture."""
    from PIL import Image, UnidentifiedImageError

    sha256 = hashlib.sha256(image).hexdigest()
    try:
        with Image.open(io.BytesIO(image)) as picture:
            check_size(picture.size)
            width, height = picture.size
            turned = picture.format == "JPEG" and picture.getexif().get(ORIENTATION, 1) != 1
            # All of the file is still read, so that damage is found, but fewer pixels are made of it.
            picture.draft("L", (64, 64))
            alike = _alike(picture)
            form = picture.format or ""
    except UnidentifiedImageError:
        return Look(sha256=sha256, fault="its bytes are no image that Pillow knows")
    except (ValueError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return Look(sha256=sha256, fault=str(error) or type(error).__name__)
    return Look(sha256=sha256, alike=alike, width_px=width, height_px=height, form=form, turned=turned)


def _alike(picture: object) -> str:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    small = picture.convert("L").resize((17, 16), Image.Resampling.BOX).tobytes()
    falls = [small[place] > small[place + 1] + MARGIN for place in range(17 * 16) if place % 17 != 16]
    return f"{sum(fall << place for place, fall in enumerate(falls)):064x}" if sum(falls) >= FEWEST else ""


def near(some: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Return of each of ``some`` fingerprints whether one of ``others`` differs in few places only."""
    if not others:
        return [False] * len(some)
    others_M4 = _words(others)
    found: list[bool] = []
    for start in range(0, len(some), CHUNK):
        some_N4 = _words(some[start : start + CHUNK])
        apart_NM = np.bitwise_count(some_N4[:, None] ^ others_M4[None]).sum(axis=-1)
        found += (apart_NM.min(axis=1) <= NEAR).tolist()
    return [is_near and bool(one) for is_near, one in zip(found, some, strict=True)]


def _words(alike: Sequence[str]) -> NDArray[np.uint64]:
    """Return fingerprints as numbers, shape ``[N, 4]``; the empty one as all bits."""
    return np.frombuffer(bytes.fromhex("".join(one or "f" * 64 for one in alike)), dtype=np.uint64).reshape(-1, 4)


def looks(images: Sequence[bytes], advance: Advance, processes: int | None = None) -> list[Look]:
    """Return a look at every image, in order.

    Args:
        images: Encoded files.
        advance: Told of every few that are done.
        processes: None takes one for every core that this process may use.

    Raises:
        RunFailed: A process died, as when memory ran out, or was silent for ten minutes.
    """
    processes = processes or len(os.sched_getaffinity(0))
    if len(images) <= FEW:
        found = list(map(look, images))
        advance(len(images))
        return found
    # Spawned, because this process may have threads, which a fork would leave without their locks' owners.
    context = multiprocessing.get_context("spawn")
    results: dict[int, list[Look]] = {}
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting: dict[Future[list[Look]], int] = {}
        for start in range(0, len(images), CHUNK):
            if len(waiting) >= IN_FLIGHT * processes:
                _collect(waiting, results, advance)
            waiting[pool.submit(_chunk, images[start : start + CHUNK])] = start
        while waiting:
            _collect(waiting, results, advance)
    return [each for start in sorted(results) for each in results[start]]


def _collect(waiting: dict[Future[list[Look]], int], results: dict[int, list[Look]], advance: Advance) -> None:
    done, _ = wait(waiting, timeout=TIMEOUT_S, return_when=FIRST_COMPLETED)
    if not done:
        raise RunFailed(f"images: No process answered for {TIMEOUT_S:.0f} s. Is the machine out of memory?")
    for future in done:
        try:
            found = future.result()
        except BrokenProcessPool:
            raise RunFailed("images: A process that decodes images died. Is the machine out of memory?") from None
        results[waiting.pop(future)] = found
        advance(len(found))


def _chunk(images: Sequence[bytes]) -> list[Look]:
    return list(map(look, images))
