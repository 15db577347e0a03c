"""The control plane: reads a recipe, plans it, submits it, and keeps it running.

Light on purpose: importing any module of this package imports neither torch, ray, vllm nor numpy,
so that ``--help`` and ``status`` answer at once on a login node's network filesystem. What runs
inside an allocation lives in ``jobs`` and is known here by name only.
"""

__version__ = "0.1.0"
