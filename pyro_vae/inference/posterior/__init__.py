"""Approximations of each row's posterior: Laplace, refined guides, HMC and NUTS."""
