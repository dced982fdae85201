"""Built-in scenarios: YAML files and their prompt sets, as package data."""
