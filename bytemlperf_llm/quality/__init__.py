"""Does the fast one still answer right? Responses of runs held against those of a reference."""
