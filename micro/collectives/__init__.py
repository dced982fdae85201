"""Collectives and links: operators that several ranks do together."""
