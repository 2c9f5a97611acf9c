"""Fits by stochastic variational inference: the fit itself, its settings, optimizer, checkpoint and progress."""
