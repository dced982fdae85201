"""Checks of the installation and of engines."""
