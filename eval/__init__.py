"""Measurement: metrics, answer checking, statistics, evaluation runs and the report."""
