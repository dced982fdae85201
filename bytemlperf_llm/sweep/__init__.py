"""One engine over a range of loads, lengths and options: a run a point, and the curves that they make."""
