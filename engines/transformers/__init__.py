"""Hugging Face transformers in process."""
