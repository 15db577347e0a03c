"""How well a page was read: edit distance of characters, and how words and word sequences agree.

A prediction that is empty is a bad reading, with numbers like any other. ``faithful`` gives what
PR1's script gives, where that gives a number.

Source:
    PR1, eval/evaluate_ocr.py:41-62 at 48d5558, which takes the metrics from nltk.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rapidfuzz.distance import Levenshtein

from eval import edit_distance

CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
BLEU_ORDER = 4
Meteor = Callable[[Sequence[str], Sequence[str]], float]


@dataclass(frozen=True, kw_only=True)
class OcrScores:
    """One reading against the truth, each in ``[0, 1]``.

    Attributes:
        edit: Edit distance over the length of the longer text; 0 is best.
        precision: Share of the prediction's words that the truth has.
        recall: Share of the truth's words that the prediction has.
        f1: Their harmonic mean.
        bleu: BLEU-4 of the one sentence.
        meteor: METEOR; None where its data is missing.
    """

    edit: float
    precision: float
    recall: float
    f1: float
    bleu: float
    meteor: float | None

    def parts(self) -> dict[str, float]:
        """Return numbers by name; METEOR only where there is one."""
        found = {
            "edit_distance": self.edit,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "bleu": self.bleu,
        }
        return found if self.meteor is None else {**found, "meteor": self.meteor}


def scores(prediction: str, truth: str, *, faithful: bool = False, meteor: Meteor | None = None) -> OcrScores:
    """Return every metric of one page.

    Args:
        prediction: What the model read.
        truth: What stands there.
        faithful: As published: edit distance of the texts as they are, words as sets, BLEU without a
            match at some order a power of the smallest float.
        meteor: What computes METEOR, see ``meteor_or_reason``; None leaves it out.
    """
    words, true_words = tokens(prediction, truth, faithful=faithful)
    precision, recall, f1 = overlap(words, true_words, faithful=faithful)
    return OcrScores(
        edit=distance(prediction, truth, faithful=faithful),
        precision=precision,
        recall=recall,
        f1=f1,
        bleu=bleu(words, true_words, faithful=faithful),
        meteor=None if meteor is None else meteor(words, true_words),
    )


def distance(prediction: str, truth: str, *, faithful: bool = False) -> float:
    """Return the edit distance over the length of the longer text, in characters; two empty texts are the same.

    It is 1 less ``eval.edit_distance.similarity``, which is what training rewards. ``faithful`` takes
    white space as it is.
    """
    if not faithful:
        return 1.0 - edit_distance.similarity(prediction, truth)
    longer = max(len(prediction), len(truth))
    return Levenshtein.distance(prediction, truth) / longer if longer else 0.0


def tokens(prediction: str, truth: str, *, faithful: bool = False) -> tuple[list[str], list[str]]:
    """Return the words of both: split at white space, or by jieba if either has Chinese characters.

    jieba gives blanks as words, which ``faithful`` keeps.
    """
    if not (CJK.search(prediction) or CJK.search(truth)):
        return prediction.split(), truth.split()
    cut = _jieba()
    words, true_words = list(cut(prediction)), list(cut(truth))
    if faithful:
        return words, true_words
    return [word for word in words if word.strip()], [word for word in true_words if word.strip()]


def overlap(words: Sequence[str], true_words: Sequence[str], *, faithful: bool = False) -> tuple[float, float, float]:
    """Return precision, recall and F1 of words.

    A word counts as often as it stands there: a page that has "the" ten times is not read by reading
    it once. ``faithful`` compares sets, in which it is. Nothing read of nothing is a perfect reading;
    nothing read of something, and something of nothing, is 0 in all three, where PR1's script has no
    number and fails.

    >>> overlap(["a", "a", "b"], ["a", "b", "c"])
    (0.6666666666666666, 0.6666666666666666, 0.6666666666666666)
    """
    if faithful:
        words, true_words = list(set(words)), list(set(true_words))
    if not words or not true_words:
        both_empty = float(not words and not true_words)
        return both_empty, both_empty, both_empty
    common = sum((Counter(words) & Counter(true_words)).values())
    precision, recall = common / len(words), common / len(true_words)
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def bleu(words: Sequence[str], true_words: Sequence[str], *, faithful: bool = False) -> float:
    """Return BLEU of one sentence against one reference: uniform weights over orders 1 to 4, brevity penalty.

    A truth of fewer than four words has no word sequences of four: only the orders that it has count,
    so that reading it right is 1. No match at an order is 0. ``faithful`` is nltk's unsmoothed value,
    which takes the smallest float for a missing match at an order, so that three right words out of
    three give 1e-77.

    Source:
        Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002;
        ``nltk.translate.bleu_score.sentence_bleu`` without smoothing.
    """
    if not words or not true_words:
        return float(not words and not true_words and not faithful)
    orders = range(1, BLEU_ORDER + 1 if faithful else min(BLEU_ORDER, len(true_words)) + 1)
    matches = [_matches(words, true_words, order) for order in orders]
    if matches[0][0] == 0 or (not faithful and any(found == 0 for found, _ in matches)):
        return 0.0
    logarithms = [math.log(found / total if found else sys.float_info.min) for found, total in matches]
    brevity = 1.0 if len(words) > len(true_words) else math.exp(1 - len(true_words) / len(words))
    return brevity * math.exp(math.fsum(logarithms) / len(logarithms))


def _matches(words: Sequence[str], true_words: Sequence[str], order: int) -> tuple[int, int]:
    """Return how many sequences of ``order`` words the truth has too, and how many there are, 1 at least."""
    found, true = _sequences(words, order), _sequences(true_words, order)
    return sum((found & true).values()), max(1, sum(found.values()))


def _sequences(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


@cache
def meteor_or_reason() -> Meteor | str:
    """Return what computes METEOR, or why nothing can.

    It needs nltk and its WordNet, which finds synonyms. Without the corpus there is no METEOR: one
    without synonyms would be another number under the same name.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import meteor_score
    except ImportError:
        return "nltk is not installed: pip install nltk, then python -m nltk.downloader wordnet."
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return "NLTK's WordNet is not on this machine: python -m nltk.downloader wordnet."
    return meteor_with(wordnet, meteor_score)


def meteor_with(wordnet: Any, meteor_score: Any) -> Meteor:
    """Return METEOR by nltk's function over a WordNet."""

    def compute(words: Sequence[str], true_words: Sequence[str]) -> float:
        if not words or not true_words:
            return float(not words and not true_words)
        return float(meteor_score([list(true_words)], list(words), wordnet=wordnet))

    return compute


@cache
def _jieba() -> Any:
    # It reports to the error stream while it loads, and its packaging calls are deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    return jieba.cut
