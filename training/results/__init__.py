"""Records, summary, checks and sections of a run."""
