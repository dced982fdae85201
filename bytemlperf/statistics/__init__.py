"""Exact percentiles, intervals, tests."""
