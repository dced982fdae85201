"""One serve-bench, start to end."""
