"""Operators: what is computed, what it costs, how it is checked. One module per family, one table (`registry`)."""
