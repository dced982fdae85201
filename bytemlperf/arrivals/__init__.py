"""When requests and calls are due: processes, seeded draws."""
