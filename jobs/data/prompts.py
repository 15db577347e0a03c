"""What is asked, around the question of a row: the published prompts by name."""

from __future__ import annotations

from collections.abc import Sequence

from eval.coco import NAMES
from orchestrator.errors import nearest

PROMPTS = {
    "plain": "{question}",
    "pr1_grounding": "Output the bounding box of the {question} in the image.",
    "pr1_counting": "Output all the bounding boxes of the {question}",
    "pr1_detection": "Please output bbox coordinates and names of {names}.",
    "pr1_detection_eval": "Locate every item from the category list in the image and output the coordinates in JSON "
    "format. The category set includes {names}.",
    "pr1_ocr": "OCR this image.",
    "page_ocr": "OCR this image: ",
    "thinking": "{question} Output the thinking process in <think> </think> and the final answer in "
    "<answer> </answer> tags.",
}
"""By name. ``pr1_*`` are PR1's in training (src/open_r1/constants.py:33-40 at 48d5558); its evaluation asks for
detection in other words than its training (eval/evaluate_detection.py:22), which costs the model something."""


def filled(prompt: str | None, default: str, question: str, names: Sequence[str] = NAMES) -> str:
    """Return the whole prompt for one question.

    Braces of a question are left alone: the template is not a format string.

    Args:
        prompt: A name in ``PROMPTS``, or a text with ``{question}``; None takes ``default``.
        default: A name in ``PROMPTS``.
        question: The row's.
        names: What ``{names}`` stands for.

    Raises:
        ValueError: It is no name and has no place for the question.
    """
    name = default if prompt is None else prompt
    template = PROMPTS.get(name, name)
    if name not in PROMPTS and "{question}" not in template and "{names}" not in template:
        raise ValueError(
            f"prompt: {name!r} is no known prompt, and a text of your own needs {{question}} in it. "
            f"{nearest(name, PROMPTS, 'prompts')}"
        )
    # The question last, so that braces in it stay what they are.
    return template.replace("{names}", ", ".join(names)).replace("{question}", question)
