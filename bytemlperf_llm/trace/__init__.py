"""Traces: recorded from what passes a proxy."""
