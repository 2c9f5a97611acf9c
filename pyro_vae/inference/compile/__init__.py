"""ELBOs that run without Pyro's handlers: recorded as graphs of tensor operations."""
