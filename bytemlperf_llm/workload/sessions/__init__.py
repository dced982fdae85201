"""Sessions: graphs of requests, what compiles files into them, and a seeded generator."""
