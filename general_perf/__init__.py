"""Common models through compile, accuracy, numerics and speed."""
