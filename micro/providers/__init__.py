"""Providers: whose kernel computes an operator. One function, one row in `bytemlperf.extensions.PROVIDERS`."""
