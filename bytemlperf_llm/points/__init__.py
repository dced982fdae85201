"""Several runs on one started engine, each an ordinary run folder below a common one."""
