"""Compile and runtime backends, found at the entry-point group `bytemlperf.backends`."""
