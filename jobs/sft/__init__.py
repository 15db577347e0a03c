"""Supervised fine-tuning: teaches a model to answer as the examples do."""
