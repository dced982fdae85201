"""From operators to serving: `bmp predict`."""
