"""Sending and timing."""
