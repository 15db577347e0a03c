"""Tiny models and data made on the spot, so that the whole line runs on a laptop without a hub."""
