"""The LLM serving suite, and what all suites stand on."""

__version__ = "0.1.0"
