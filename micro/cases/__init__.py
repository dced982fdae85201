"""Which operator with which arguments."""
