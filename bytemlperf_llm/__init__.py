"""The LLM serving suite."""
