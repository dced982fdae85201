"""Training throughput, scaling, memory, communication and convergence."""
