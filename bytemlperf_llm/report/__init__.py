"""What a person sees: the live view, the final table."""
