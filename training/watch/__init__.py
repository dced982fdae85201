"""The ranks from outside."""
