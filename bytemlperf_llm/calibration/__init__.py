"""The client's own error: load steps, cache, table."""
