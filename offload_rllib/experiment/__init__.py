"""Runs: training, evaluation, comparison, and what people look at."""
