"""Pages that show what runs did, one file each: ``python -m eval.report --run-dir DIR``.

A page needs no network and no server. Without a script it has everything but the browser over all rollouts; with
one, curves can be smoothed and zoomed. What is not there yet is said.
"""

from eval.report.run_page import build

__all__ = ["build"]
