"""Records, sections and tables of a sweep."""
