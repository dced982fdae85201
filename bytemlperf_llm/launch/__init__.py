"""Servers that a command starts itself, and stops."""
