"""Submissions: a folder of run folders with a declaration, checked against the rules, packed into one file."""
