"""Sections of a result on a page, in a terminal, as Markdown and JSON."""
