"""Loggers that send the epochs of a fit to experiment trackers."""
