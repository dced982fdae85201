"""What the records mean: definitions, exact statistics, steady state, SLOs and the verdict."""
