"""Compilation of an ELBO and its gradient to a recorded graph."""
