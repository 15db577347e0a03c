"""Scenes drawn on the spot, one file a task: pictures with questions about boxes, counts and texts.

Tiny models learn the tasks of perception from them in minutes, on a CPU. Everything in a picture lies on a
coarse grid, so that a coordinate is one token of few, and the truth is exact. ``registry`` names the tasks.
"""
