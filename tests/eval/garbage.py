"""What a model may write: text that looks like boxes, JSON or tags, whole, cut off or broken."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from eval.target import Space, Target

PIECES = (
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "```json\n",
    "```",
    '[{"bbox_2d": ',
    '{"bbox_2d": [1, 2, 30, 40], "label": "cat"}',
    '"label": "cat"}',
    "}]",
    "[1, 2, 30, 40]",
    "(1,2),(30,40)",
    "(1, 2)",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ", ",
    "-",
    "0.5",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "NaN",
    "-Infinity",
    "null",
    "true",
    "[[[[",
    " ",
    "\n",
    "cat",
    "猫",
    "\x00",
    "\ud800",
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=24).map("".join)
# Below 1e300, so that changing the units of a truth does not overflow.
somewhere = st.floats(-1e300, 1e300) | st.integers(-2000, 2000).map(float)
anywhere = somewhere | st.sampled_from([math.nan, math.inf, -math.inf])
inside = st.integers(0, 1000).map(float)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """Boxes with an area, inside an image of 1000 x 1000."""
    x1, y1 = draw(st.integers(0, 990)), draw(st.integers(0, 990))
    return float(x1), float(y1), float(draw(st.integers(x1 + 1, 1000))), float(draw(st.integers(y1 + 1, 1000)))


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Truths of any kind, with coordinates that no image has among them."""
    corners = st.tuples(somewhere, somewhere, somewhere, somewhere) | boxes()
    found = tuple(draw(st.lists(corners, max_size=5)))
    labels = tuple(draw(st.sampled_from(["cat", "dog", "unicorn", ""])) for _ in found) if draw(st.booleans()) else ()
    return Target(
        space=Space(
            system=draw(st.sampled_from(["pixel", "rel1000", "rel1"])),
            width_px=draw(st.integers(1, 4000)),
            height_px=draw(st.integers(1, 4000)),
        ),
        boxes=found,
        labels=labels,
        points=tuple(draw(st.lists(st.tuples(somewhere, somewhere), max_size=4))),
        count=draw(st.none() | st.integers(0, 100)),
    )
