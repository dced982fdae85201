"""Timing and correctness of one case."""
