"""What is kept of a run: the run folder, the append-only record log, its reader."""
