"""Child processes, and what this machine leaves to them."""
