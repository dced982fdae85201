"""A static site over many runs: hardware, comparison, leaderboards, models, every run's report. Opens from disk."""
