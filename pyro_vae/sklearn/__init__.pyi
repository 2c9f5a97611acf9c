from .vae_density import VAEDensity as VAEDensity

__all__ = ["VAEDensity"]
