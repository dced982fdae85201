"""The client measurement error: load steps, cache, table."""
