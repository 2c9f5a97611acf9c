"""Checks of whether a model is right: predictive checks, calibration of the guide, draws beside rows."""
