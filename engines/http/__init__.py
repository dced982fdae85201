"""The HTTP client that streams are read with."""
