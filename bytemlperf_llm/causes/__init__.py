"""Why the slowest requests were slow: a fixed set of tested rules over a run's records, most important first."""
