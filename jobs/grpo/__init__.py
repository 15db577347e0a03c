"""GRPO on a vision-language model: sample groups, score them as they end, step on relative advantages.

Read in this order: ``settings``, ``loop``, ``collector``, ``algo``, then the rest.
"""
