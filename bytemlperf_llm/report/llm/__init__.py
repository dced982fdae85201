"""What a run of LLM serving tells: its comparable figures and its part of the report page."""
