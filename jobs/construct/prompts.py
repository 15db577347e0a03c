r"""What teacher, extractor and verifier are asked, in our words; Perception-R1 published none of its prompts.

``full``
    Explains the task with rules and two examples, for a model that was never trained for it.
``compact``
    One sentence, for a small extractor that was trained on it (``jobs.construct.tiny``).

The verifier's question against the trajectory is that of the visual perception reward
(``jobs.rewards.judge_prompt``): the facts are kept that the reward's judge will find in a good response.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from jobs.data import IMAGE
from jobs.rewards import judge_prompt

Template = Literal["full", "compact"]
Against = Literal["trajectory", "image"]

DISTIL = (
    "First look at the image and write down, one short sentence each, everything in it that the problem depends on: "
    "labels, lengths, angles, marks, positions, counts, colours, values read from a chart. Then solve the problem step "
    "by step from the text and from what you wrote down. Put all of this between <think> and </think>, and after it "
    "the final answer between <answer> and </answer>, where it stands in \\boxed{}."
)
"""What is appended to a problem for the teacher, unless the recipe says otherwise."""

FULL_SYSTEM = r"""You turn a solution of a problem with an image into a list of the visual facts it used.

You are given the text of the problem and a solution that ends with the right answer. You do not see the image: the solution is your only source. List every piece of information that the solution took from the image and that is needed to solve the problem.

Rules:
1. One fact in each tag, numbered from 1: <info1>...</info1>, <info2>...</info2>, and so on, one tag to a line. Write nothing outside the tags.
2. A fact is atomic: one short sentence or equation about one thing that can be seen. Split "AB = 3 and BC = 4" into two.
3. A fact is seen, not derived. Leave out results of calculations, theorems, steps of reasoning, and above all the final answer.
4. A fact stands on its own: name the objects, do not write "it" or "this angle".
5. Leave out what the text of the problem says already, what the solution merely supposes, and repetitions.
6. If the solution took nothing from the image, write <info1>none</info1>.

Example 1
Problem:
Find the perimeter of the parallelogram.
Solution:
<think>
The picture shows parallelogram WXYZ. The side WX carries the label 9, and a height of 4 is drawn to it from Z. The slanted side ZW is marked 5. Opposite sides are equal, so the perimeter is 2(9 + 5) = 28.
</think>
<answer>
\boxed{28}
</answer>
Facts:
<info1>WXYZ is a parallelogram.</info1>
<info2>Side WX is labelled 9.</info2>
<info3>Side ZW is labelled 5.</info3>
<info4>The height drawn from Z to WX is labelled 4.</info4>

Example 2
Problem:
By how much did sales grow from the first to the third quarter?
Solution:
<think>
Reading the bar chart: Q1 reaches 120, Q2 reaches 150, Q3 reaches 175 thousand units. 175 - 120 = 55.
</think>
<answer>
\boxed{55}
</answer>
Facts:
<info1>The bar of Q1 reaches 120 thousand units.</info1>
<info2>The bar of Q3 reaches 175 thousand units.</info2>"""  # noqa: E501 (a prompt's lines are paragraphs)

COMPACT_SYSTEM = "List the visual facts that the solution states."

SYSTEM: dict[str, str] = {"full": FULL_SYSTEM, "compact": COMPACT_SYSTEM}

IMAGE_SYSTEM = """You check statements about an image. Each stands in a numbered tag such as <info1>...</info1>. Look at the image and decide for every statement on its own whether the image shows it.

Rules:
1. The score of a statement is 1 if it can be seen in the image to be true, and 0 if it is false, cannot be seen, or you are not sure.
2. Reply with one numbered tag for every statement, in order, and nothing but 1 or 0 inside: <info1>score</info1>, <info2>score</info2>, and so on."""  # noqa: E501

Message = dict[str, Any]


def numbered(facts: Sequence[str]) -> str:
    """Return facts as ``visual_key_info``.

    >>> numbered(["AB = 3", "B is right"])
    '<info1>AB = 3</info1>\\n<info2>B is right</info2>'
    """
    return "\n".join(f"<info{k}>{fact}</info{k}>" for k, fact in enumerate(facts, 1))


def distil(problem: str, system: str) -> list[Message]:
    """Return the question to the teacher. Images are empty parts, in their places; see ``jobs.construct.request``."""
    user: Message = {"role": "user", "content": parts(problem)}
    return [{"role": "system", "content": system}, user] if system else [user]


def extract(problem: str, trajectory: str, template: Template) -> list[Message]:
    """Return the question to the extractor. Tags and special tokens in the solution lose their power."""
    text = problem.replace(IMAGE, "").strip()
    solution = judge_prompt.harmless(trajectory)
    if template == "compact":
        return _chat(COMPACT_SYSTEM, f"{text}\n{solution}")
    return _chat(SYSTEM[template], f"Problem:\n{text}\nSolution:\n{solution}\nFacts:")


def verify(
    facts: Sequence[str], trajectory: str, *, against: Against, template: judge_prompt.Template, images: int
) -> list[Message]:
    """Return the question to the verifier."""
    if against == "image":
        return [
            {"role": "system", "content": IMAGE_SYSTEM},
            {"role": "user", "content": [*[{"type": "image_url"}] * images, _text(numbered(facts))]},
        ]
    return list(judge_prompt.messages(numbered(facts), trajectory, template))


def verify_system(against: Against, template: judge_prompt.Template) -> str:
    """Return the system message of a question to the verifier."""
    return IMAGE_SYSTEM if against == "image" else judge_prompt.SYSTEM[template]


def parts(text: str) -> list[Message]:
    """Return a text as parts of a message, with an empty image part for each ``<image>``."""
    content: list[Message] = []
    for position, piece in enumerate(text.split(IMAGE)):
        if position:
            content.append({"type": "image_url"})
        if piece:
            content.append(_text(piece))
    return content


def fingerprint(*texts: str) -> str:
    """Return the hash of a prompt's fixed texts."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
