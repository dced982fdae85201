"""Model, data and FLOPs."""
