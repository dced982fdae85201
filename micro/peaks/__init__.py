"""What this machine reaches at most."""
