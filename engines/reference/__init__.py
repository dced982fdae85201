"""An engine and a server of known latency."""
