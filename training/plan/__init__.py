"""Workload, layout and memory, resolved."""
