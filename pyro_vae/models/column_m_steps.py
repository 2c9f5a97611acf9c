"""M-steps without a closed form: bounds that touch the objective at the current parameters, so that it never falls."""

import torch
from torch import Tensor

NEWTON_STEPS = 8
LONGEST_STEP, SURE_STEP = 2.0, 1e-4  # of a logarithm


def raise_total_count(
    log_count: Tensor, first: Tensor, mean: Tensor, slope: Tensor, curvature: Tensor, ends: tuple[float, float]
) -> Tensor:
    r"""Total counts r of negative binomials that raise the expected log p, by a few safeguarded Newton steps.

    $\log\Gamma(r + x)$ is convex in r, and $y^2 \psi'(y)$ rises, $\psi'$ falls; so from $r_0$ on it is at least
    $\psi(r_0 + x)(r - r_0) + \psi'(r_0 + x)\, q(r)$ with $q'' = \min(1, (r_0/r)^2)$. With that in its place the
    expected log p is a lower bound that touches at $r_0$, up to its second derivative: Newton's steps on it converge as
    on the objective, and a step is halved until the bound does not fall.

    Args:
        log_count: log r, (C, n).
        first: r₀, where the bound touches: r again, except between batches of online EM.
        mean: the weighted means of x, which are the mean's maximum whatever r is.
        slope: the weighted means of ψ(r₀ + x).
        curvature: those of ψ'(r₀ + x).
        ends: of the range of log r.

    Returns:
        log r, (C, n).
    """
    best = log_count
    halves = 0.5 ** torch.arange(6, dtype=mean.dtype, device=mean.device)[:, None, None]

    def bound(log_r: Tensor) -> Tensor:
        r = log_r.exp()
        ratio = r / first
        above, below = first.square() * (ratio - 1 - ratio.log()), (r - first).square() / 2
        linear = slope * (r - first) + curvature * torch.where(r > first, above, below)
        return linear - torch.lgamma(r) + r * log_r - (r + mean) * (r + mean).log()

    for _ in range(NEWTON_STEPS):
        r = best.exp()
        weight = torch.where(r > first, first / r, torch.ones_like(r))
        derivative = slope + curvature * weight * (r - first) - torch.digamma(r) + best - (r + mean).log()
        second = curvature * weight.square() - torch.polygamma(1, r) + 1 / r - 1 / (r + mean)
        down, up = r.square() * second + r * derivative, r * derivative
        newton = torch.where(down < 0, -up / down, up.sign() * LONGEST_STEP)
        tried = (best + halves * newton.clamp(-LONGEST_STEP, LONGEST_STEP)).clamp(*ends)
        value, index = bound(tried).max(0)
        raised = torch.where(value > bound(best), tried.gather(0, index[None])[0], best)
        is_near = (down < 0) & (newton.abs() < SURE_STEP)  # where the bound's own rounding is larger than its gain
        best = torch.where(is_near, tried[0], raised)
    return best


def logistic_bound(u: Tensor) -> Tensor:
    r"""λ(u) = tanh(u/2) / 4u of the bound $\log\sigma(v) \ge \log\sigma(u) + (v - u)/2 - \lambda(u)(v^2 - u^2)$."""
    small = u.abs() < 1e-4
    at = torch.where(small, 1.0, u)
    return torch.where(small, 0.125 - u.square() / 96, torch.tanh(at / 2) / (4 * at))


def inverse_scale(known: Tensor, scatter: Tensor, step: Tensor) -> Tensor:
    r"""The inverse scale β of discretized logistic values that maximizes their bound, from $y \tanh y = k$, y = βh/2.

    The bound is, up to a constant, $W (\beta h / 2 + \log(1 - e^{-h \beta})) - \beta^2 V$, with $k = W h^2 / 8 V$.

    Args:
        known: W, the sum of the weights, (C, n).
        scatter: V, the sum of λ times the squares of the ends of the steps around the mean.
        step: h, (n,).

    Returns:
        β (C, n).
    """
    k = known * step.square() / (8 * scatter.clamp(min=torch.finfo(scatter.dtype).tiny))
    k = k.clamp(max=1e12)
    y = torch.maximum(k, k.sqrt())
    for _ in range(NEWTON_STEPS):
        tanh = torch.tanh(y)
        y = y - (y * tanh - k) / (tanh + y * (1 - tanh.square())).clamp(min=1e-150)
    return 2 * y / step
