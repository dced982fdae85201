"""What every suite stands on; knows no suite by name."""
