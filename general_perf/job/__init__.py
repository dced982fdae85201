"""One model on one backend, in a process of its own."""
