"""Spec cards of devices, and what a run ran on: hardware, operating system, packages, the state of the source tree."""
