"""Spans of the server that is measured: received on loopback, joined to requests by their trace ids, on the clock of the run."""
