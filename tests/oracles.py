"""Models whose log p(x) and posterior are known in closed form: references for the package's numbers."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class LinearGaussian(nn.Module):
    """z ~ N(m, diag(s²)), x | z ~ N(W z + b, σ² I); the guide is the exact posterior, its covariance times `inflate`.

    With `sites=2` the latents are drawn in two halves, z_a then z_b given z_a, in model and guide alike.
    """

    def __init__(self, K, D, *, sites=1, loc=0.0, scale=1.0, noise=0.8, inflate=1.2, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.W = torch.randn(D, K, generator=g) / math.sqrt(K)
        self.b = torch.randn(D, generator=g)
        self.m, self.s = torch.full((K,), loc), torch.full((K,), scale)
        self.noise, self.inflate, self.sites, self.cut = noise, inflate, sites, K // 2
        precision = torch.diag(self.s**-2.0) + self.W.T @ self.W / noise**2
        self.posterior_cov = torch.linalg.inv(precision)
        self.posterior_cov = (self.posterior_cov + self.posterior_cov.T) / 2

    def posterior_mean(self, x):
        return (self.m / self.s**2 + (x - self.b) @ self.W / self.noise**2) @ self.posterior_cov

    def marginal(self):
        cov = self.W @ torch.diag(self.s**2) @ self.W.T + self.noise**2 * torch.eye(len(self.b))
        return torch.distributions.MultivariateNormal(self.b + self.W @ self.m, covariance_matrix=cov)

    def exact(self, x):
        return self.marginal().log_prob(x)

    def kl_to_posterior(self):
        """KL(N(μ, cΣ) ‖ N(μ, Σ)), the gap between the ELBO and log p(x), the same for every row."""
        return len(self.m) / 2 * (self.inflate - 1 - math.log(self.inflate))

    def rows(self, n, seed=1):
        g = torch.Generator().manual_seed(seed)
        z = self.m + self.s * torch.randn(n, len(self.m), generator=g)
        return z @ self.W.T + self.b + self.noise * torch.randn(n, len(self.b), generator=g)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            if self.sites == 1:
                z = pyro.sample("z", dist.Normal(self.m, self.s).to_event(1))
            else:
                first = pyro.sample("z_a", dist.Normal(self.m[: self.cut], self.s[: self.cut]).to_event(1))
                second = pyro.sample("z_b", dist.Normal(self.m[self.cut :], self.s[self.cut :]).to_event(1))
                z = torch.cat([first, second], -1)
            pyro.sample("x", dist.Normal(z @ self.W.T + self.b, self.noise).to_event(1), obs=x)

    def guide(self, x):
        mean, cov = self.posterior_mean(x), self.inflate * self.posterior_cov
        with pyro.plate("rows", len(x)):
            if self.sites == 1:
                pyro.sample("z", dist.MultivariateNormal(mean, cov))
                return
            a, b = slice(None, self.cut), slice(self.cut, None)
            first = pyro.sample("z_a", dist.MultivariateNormal(mean[:, a], cov[a, a]))
            gain = cov[b, a] @ torch.linalg.inv(cov[a, a])
            rest = cov[b, b] - gain @ cov[a, b]
            pyro.sample("z_b", dist.MultivariateNormal(mean[:, b] + (first - mean[:, a]) @ gain.T, (rest + rest.T) / 2))


def factor_rows(n=300):
    """Rows of five columns in float64 from two factors with a noise of its own in each column."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, generator=g, dtype=torch.float64)
    noise = torch.tensor([0.3, 0.5, 0.7, 1.0, 0.2], dtype=torch.float64)
    z = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return 3 + z @ weight.T + noise * torch.randn(n, 5, generator=g, dtype=torch.float64)
