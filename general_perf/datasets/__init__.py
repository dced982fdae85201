"""Real data that installed packages carry, with its pre- and post-processing."""
