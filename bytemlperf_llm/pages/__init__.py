"""The LLM part of a page, and the final table."""
