"""`bmp convert`."""
