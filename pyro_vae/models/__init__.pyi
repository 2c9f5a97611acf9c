from .semi_supervised_vae import SemiSupervisedVAE as SemiSupervisedVAE

__all__ = ["SemiSupervisedVAE"]
