"""Several runs on engines that start once, each an ordinary run folder below a common one."""
