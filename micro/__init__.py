"""Operators and collectives: correctness, percentiles, roofline."""
