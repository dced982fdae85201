"""Studies over several runs: scaling, its extrapolation, and what a precision does to the loss."""
