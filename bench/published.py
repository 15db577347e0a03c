"""What the published rewards compute, written down from their description, with the libraries they use.

For measuring beside ours, and for checking that ``faithful`` gives their numbers. Nothing else uses it.

Source:
    PR1, src/open_r1/rewards.py:59-174 and utils.py:195-317 at accb7cb (detection); MMR1,
    src/open_r1/rewards.py:134-194 at a2f8a03 (OCR).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from eval import coco

CLASSES = 90
PENALTY = 0.5


def ocr(response: str, truth: str) -> float:
    """Return the OCR reward: nltk's edit distance of characters, white space collapsed."""
    from nltk.metrics import distance

    # Newer versions refuse texts as long as a page, since their time grows with the square of it.
    distance.MAX_DISTANCE_INPUT_LEN = sys.maxsize
    one, other = " ".join(response.split()), " ".join(truth.split())
    return max(0.0, 1 - distance.edit_distance(one, other) / max(len(one), len(other)))


def detection(response: str, solution: dict[str, Any], *, penalty: bool = False) -> float:
    """Return the detection reward of a response that is a list, at least one entry of it with a known name.

    Args:
        response: JSON, in a code fence or not.
        solution: ``target_id``, COCO's numbers, and ``target_box``, corners in pixels.
        penalty: Take off for what is superfluous or missed.
    """
    import torch

    entries = json.loads(response.replace("```json", "").replace("```", ""))
    known = [entry for entry in entries if entry.get("label") in coco.IDS and "bbox_2d" in entry]
    reward = 0.25 * len(known) / len(entries)
    found = torch.tensor([entry["bbox_2d"] for entry in known], dtype=torch.float32)
    numbers = torch.tensor([coco.IDS[entry["label"]] for entry in known])
    truths = torch.tensor(solution["target_box"], dtype=torch.float32)
    true_numbers = torch.tensor(solution["target_id"])
    rows, columns = _assigned(found, numbers, truths, true_numbers)
    overlaps = _overlaps(found, truths)[0][rows, columns]
    kept = overlaps > 0.5
    matched = int(kept.sum())
    if not matched:
        return reward
    precision, recall = matched / len(found), matched / len(truths)
    same = (numbers[rows] == true_numbers[columns])[kept].float().mean()
    reward += 0.75 * 2 * precision * recall / (precision + recall) + float(same) + float(overlaps[kept].mean())
    if penalty:
        reward -= PENALTY * ((1 - precision) + (1 - recall))
    return min(max(reward, 0.0), 3.0)


def _assigned(found: Any, numbers: Any, truths: Any, true_numbers: Any) -> tuple[Any, Any]:
    import torch
    from scipy.optimize import linear_sum_assignment

    hot = torch.nn.functional.one_hot(numbers, CLASSES).float().softmax(-1)
    by_name = -hot[:, true_numbers - 1]
    by_distance = torch.cdist(_middles(found), _middles(truths), p=1)
    by_overlap = -_overlaps(found, truths)[1]
    rows, columns = linear_sum_assignment((5 * by_distance + by_name + 2 * by_overlap).numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def _middles(boxes: Any) -> Any:
    import torch

    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def _overlaps(a: Any, b: Any) -> tuple[Any, Any]:
    """Return overlaps and generalised overlaps of every pair."""
    import torch

    assert (a[:, 2:] >= a[:, :2]).all()
    assert (b[:, 2:] >= b[:, :2]).all()
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    corner = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (corner[1] - corner[0]).clamp(min=0).prod(-1)
    union = area_a[:, None] + area_b - inter
    hull_corner = torch.minimum(a[:, None, :2], b[:, :2]), torch.maximum(a[:, None, 2:], b[:, 2:])
    hull = (hull_corner[1] - hull_corner[0]).prod(-1)
    overlap = inter / (union + 1e-8)
    return overlap, overlap - (hull - union) / (hull + 1e-8)
