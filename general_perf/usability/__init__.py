"""What a backend asks of its user."""
