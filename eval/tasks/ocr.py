"""Reading pages, as on PageOCR: how close the text is to the true one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from eval import ocr_metrics, thinking
from eval.significance import mean
from eval.tasks import drawn
from eval.tasks.kind import Measured, Options, Problem, Row


class Ocr:
    """Edit distance, precision, recall, F1, BLEU and, where its data is, METEOR; by split, such as language."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def measure(self, problem: Problem, response: str) -> Measured:
        """Return the metrics of one page. There is no right and wrong.

        What is compared is the answer, without thinking and special tokens; ``faithful`` compares the
        whole response.
        """
        text = response if self._options.faithful else thinking.answer(response).strip()
        # METEOR of a page takes a second, in which other answers need the event loop.
        found = await asyncio.to_thread(self._scores, text, problem.answer)
        return Measured(parts=found.parts(), correct=None, extracted=text)

    def aggregate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the means of every split; METEOR is None with a reason where its data is missing."""
        splits = {name: _means(of) for name, of in drawn.of_split(rows).items()}
        meteor = ocr_metrics.meteor_or_reason()
        reason = {"meteor_missing": meteor} if isinstance(meteor, str) else {}
        words = "as sets" if self._options.faithful else "as often as they stand there"
        return {"ocr": {"splits": splits, "words_counted": words, **reason}}

    async def close(self) -> None:
        """Nothing to let go of."""

    def _scores(self, text: str, truth: str) -> ocr_metrics.OcrScores:
        meteor = ocr_metrics.meteor_or_reason()
        return ocr_metrics.scores(
            text, truth, faithful=self._options.faithful, meteor=None if isinstance(meteor, str) else meteor
        )


def _means(rows: Sequence[Row]) -> dict[str, Any]:
    names = [name for name in rows[0]["parts"] if name != "meteor"]
    found = {name: mean([float(row["parts"][name]) for row in rows])[0] for name in names}
    with_meteor = [float(row["parts"]["meteor"]) for row in rows if "meteor" in row["parts"]]
    # A mean over a part of the pages would be one of another set of pages.
    return {"n": len(rows), **found, "meteor": mean(with_meteor)[0] if len(with_meteor) == len(rows) else None}
