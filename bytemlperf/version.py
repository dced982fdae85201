"""The version, as results and pages have it."""

__version__ = "0.1.0"
