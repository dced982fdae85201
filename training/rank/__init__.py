"""What one rank does, in a process of its own."""

from bytemlperf.extras import require

require("a rank of bmp train", "train", "torch")
