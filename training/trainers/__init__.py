"""What trains a model on a rank."""

from bytemlperf.extras import require

require("a trainer", "train", "torch")
