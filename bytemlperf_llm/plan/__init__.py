"""Flags, scenario file and data sets, resolved into one plan."""
