"""Providers: whose kernel computes an operator. One function, one row in `registry`."""
