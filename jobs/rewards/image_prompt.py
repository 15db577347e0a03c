"""What a judge that sees is asked: how much of what a response says about the image is so?

There are no annotations. The judge gets the image and the response and answers with one number from
0 to 1 in ``<info1>``, which ``eval.facts`` reads as the verdict on one fact.

Source:
    Perception-R1, verl/utils/reward_score/math_with_visual.py:26-37 and 162-177 at c47eaf2, a variant
    that is commented out there; the paper's ablation "MLLM as reward model". The words are ours.
"""

from __future__ import annotations

from jobs.rewards.judge_prompt import harmless
from jobs.rewards.question import Question

PERCEPTION_R1_SYSTEM = """You check how well a solution to a multimodal problem has looked at its image.

You are given the image and a text, "Response", somebody's solution. Find every statement of the Response about what is to be seen in the image: objects, labels, numbers, positions, shapes, relations. Decide for each whether the image shows it.

Rules:
1. The score is the share of these statements that the image shows, a number from 0 to 1: 1 if all are true, 0.5 if half of them are, 0 if none is.
2. A Response that states nothing about the image scores 0.
3. Judge what is said about the image only. Whether the Response reasons correctly or reaches the right answer makes no difference.
4. Reply with one tag and nothing else: <info1>score</info1>.
"""  # noqa: E501 (a prompt's lines are paragraphs)
COMPACT_SYSTEM = "Say which share of the response's statements about the image is true: <info1>0 to 1</info1>."
SYSTEM = {"perception_r1": PERCEPTION_R1_SYSTEM, "compact": COMPACT_SYSTEM}


def question(
    images: tuple[bytes, ...], response: str, template: str = "perception_r1", *, neutralise: bool = True
) -> Question:
    """Return what asks a judge that sees about one response.

    Args:
        images: The problem's encoded image files.
        response: The policy's whole decoded response, tags included.
        template: A key of ``SYSTEM``.
        neutralise: Take the power out of verdict tags and special tokens in the response, see
            ``judge_prompt.harmless``.
    """
    text = harmless(response) if neutralise else response
    messages = [
        {"role": "system", "content": SYSTEM[template]},
        {"role": "user", "content": f"Response:\n{text}"},
    ]
    return Question(messages=messages, images=images, asked=(1,))
