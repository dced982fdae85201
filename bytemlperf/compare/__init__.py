"""Is B really faster than A? Any runs of one kind beside each other, with intervals and a verdict on each difference."""
