"""Rows drawn from mixtures, which tests of EM and of SVI fit."""

import torch


def gaussian_clusters(n=300, D=3, C=4, seed=0, spread=2.0):
    """Rows (n, D), float64, of C normals with full covariances."""
    g = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(C, D, generator=g, dtype=torch.float64)
    mix = torch.randn(C, D, D, generator=g, dtype=torch.float64)
    label = torch.randint(0, C, (n,), generator=g)
    noise = torch.randn(n, D, generator=g, dtype=torch.float64)
    return centres[label] + (mix[label] @ noise[..., None])[..., 0]


def bernoulli_clusters(n=300, D=12, C=4, seed=0):
    """Binary rows (n, D) of C products of Bernoullis."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(C, D, generator=g)
    return torch.bernoulli(p[torch.randint(0, C, (n,), generator=g)], generator=g)
