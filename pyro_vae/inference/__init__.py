"""Inference: fits by SVI, EM and wake–sleep, their objectives, and the posterior of latents given a program."""
