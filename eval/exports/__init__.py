"""An evaluation in the files of others: one module a format, each a function from an ``Evaluated`` to files.

    python -m eval.exports lm-eval RUN --out DIR
    python -m eval.exports coco RUN --out DIR
    python -m eval.exports every-eval-ever RUN --out DIR --model ORGANISATION/NAME
    python -m eval.exports vlmevalkit RUN --out DIR

Nothing is measured again: what is written is what ``samples.jsonl`` and ``summary.json`` say. Exporting twice
writes the same files again.
"""
