"""What is measured on a loaded model: speed, numerics, accuracy."""
