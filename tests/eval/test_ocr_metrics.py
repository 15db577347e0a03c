"""How well a page was read, against nltk."""

from __future__ import annotations

import math
import warnings

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.distance import edit_distance
from nltk.metrics.scores import f_measure, precision, recall
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.meteor_score import meteor_score

from eval import ocr_metrics
from eval.ocr_metrics import OcrScores, bleu, distance, meteor_with, overlap, scores, tokens

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "dog"]), max_size=12)
PAGES = st.text(alphabet="ab c\n\t你好", max_size=40)


@given(WORDS, WORDS)
@settings(deadline=None)
def test_faithful_bleu_is_nltks(words: list[str], true_words: list[str]) -> None:
    with warnings.catch_warnings():
        # nltk warns where sentences have no sequence of some length in common.
        warnings.simplefilter("ignore")
        expected = float(sentence_bleu([true_words], words))

    assert bleu(words, true_words, faithful=True) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(PAGES, PAGES)
@settings(deadline=None)
def test_faithful_edit_distance_is_nltks_over_the_longer_text(prediction: str, truth: str) -> None:
    longer = max(len(prediction), len(truth))

    expected = edit_distance(prediction, truth) / longer if longer else 0.0
    assert distance(prediction, truth, faithful=True) == pytest.approx(expected, abs=1e-12)


@given(WORDS.filter(bool), WORDS.filter(bool))
@settings(deadline=None)
def test_faithful_overlap_is_nltks(words: list[str], true_words: list[str]) -> None:
    sets = set(true_words), set(words)

    expected = (precision(*sets), recall(*sets), f_measure(*sets))
    assert overlap(words, true_words, faithful=True) == pytest.approx(expected)


@given(PAGES, PAGES, st.booleans())
@settings(deadline=None)
def test_every_metric_of_any_pages_is_a_number_from_0_to_1(prediction: str, truth: str, faithful: bool) -> None:
    found = scores(prediction, truth, faithful=faithful).parts()

    assert all(math.isfinite(value) and -1e-9 <= value <= 1 + 1e-9 for value in found.values())


@given(PAGES.filter(lambda text: bool(text.strip())))
@settings(deadline=None)
def test_a_page_read_right_has_the_best_of_every_metric(truth: str) -> None:
    found = scores(truth, truth)

    assert found == OcrScores(edit=0.0, precision=1.0, recall=1.0, f1=1.0, bleu=pytest.approx(1.0), meteor=None)


def test_words_count_as_often_as_they_stand_there() -> None:
    page = ["the"] * 10

    assert overlap(["the"], page) == pytest.approx((1.0, 0.1, 2 / 11))
    assert overlap(["the"], page, faithful=True) == (1.0, 1.0, 1.0)


def test_a_page_of_two_words_read_right_has_a_bleu_of_1() -> None:
    assert bleu(["two", "words"], ["two", "words"]) == pytest.approx(1.0)
    assert bleu(["two", "words"], ["two", "words"], faithful=True) < 1e-100


def test_a_page_on_which_nothing_was_read_has_numbers() -> None:
    assert scores("", "some words") == OcrScores(edit=1.0, precision=0.0, recall=0.0, f1=0.0, bleu=0.0, meteor=None)


def test_an_empty_page_read_as_empty_is_read_right() -> None:
    assert scores("", "") == OcrScores(edit=0.0, precision=1.0, recall=1.0, f1=1.0, bleu=1.0, meteor=None)


def test_line_breaks_are_not_what_was_read() -> None:
    assert distance("one\ntwo", "one two") == 0.0
    assert distance("one\ntwo", "one two", faithful=True) == pytest.approx(1 / 7)


def test_chinese_is_cut_into_words() -> None:
    assert tokens("你好 世界", "你好世界") == (["你好", "世界"], ["你好", "世界"])
    assert tokens("你好 世界", "你好世界", faithful=True) == (["你好", " ", "世界"], ["你好", "世界"])


def test_a_latin_page_is_cut_by_jieba_if_the_other_is_chinese() -> None:
    assert tokens("hello", "你好")[0] == ["hello"]


def test_meteor_is_nltks_over_a_wordnet() -> None:
    class Synonyms:
        """A WordNet in which nothing has a synonym."""

        def synsets(self, _word: str) -> list[object]:
            return []

    meteor = meteor_with(Synonyms(), meteor_score)

    found = scores("the cat sat on the mat", "the cat sat on the mat", meteor=meteor)
    # Six matches in one chunk: 1 less 0.5 (1 / 6)^3.
    assert found.parts()["meteor"] == pytest.approx(1 - 0.5 / 6**3)
    assert meteor([], ["a"]) == 0.0
    assert meteor([], []) == 1.0


def test_without_its_data_meteor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nowhere to look, whatever this machine has.
    monkeypatch.setattr(nltk.data, "path", [])
    found = ocr_metrics.meteor_or_reason.__wrapped__()

    assert found == "NLTK's WordNet is not on this machine: python -m nltk.downloader wordnet."
