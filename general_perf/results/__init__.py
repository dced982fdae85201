"""Records, figures and sections of a run."""
