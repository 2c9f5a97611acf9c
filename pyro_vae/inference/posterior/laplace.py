"""The Laplace approximation of each row's posterior: the mode, by damped Newton steps, and the normal around it.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
>>> x = torch.ones(3, 5)
>>> approximation, exact = laplace_approximation(vae, x), pv.exact_evidence(vae, x)
>>> bool(approximation.converged.all()), bool((approximation.log_px - exact.log_px).abs().max() < 0.2)
(True, True)
>>> sampled = pv.log_evidence(approximation, x, rows=torch.arange(3))
>>> bool((sampled.log_px - exact.log_px).abs().max() < 0.05)
True
"""

import itertools
from dataclasses import fields, replace

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import MultivariateNormal, TransformedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform, ReshapeTransform, Transform

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.posterior.newton_modes import Expansion, highest_mode, normal_at
from pyro_vae.inference.posterior.refined_guides import PerRowProgram, full_batch
from pyro_vae.programs.find_plates import find_row_by_row
from pyro_vae.programs.observed_support import require_inside
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import require_density
from pyro_vae.programs.row_inputs import Batch, accepts_row_inputs
from pyro_vae.programs.traces import Site
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint, transform_to_support
from pyro_vae.typing import Program


class LaplaceApproximation(PerRowProgram):
    r"""A program whose guide is the Laplace approximation of each of N rows' posteriors, $q_i(u) = N(u^*_i, C_i)$.

    u (K) is all of a row's latents, concatenated, in the unconstrained space of `UnconstrainedJoint`: the q of a
    constrained latent is the transformed normal. `mode` (N, K) holds $u^*_i$ and `covariance` (N, K, K)
    $C_i = (-H_i)^{-1}$. `log_px` (N,) is
    $\log p(x_i, u^*_i) + \frac K2 \log 2\pi - \frac12 \log\det(-H_i)$, nats, float64 on the CPU: exact where the
    posterior is normal, elsewhere an estimate that may lie on either side, no bound. `converged` (N,) says where the
    mode was found. Where $-H_i$ is not positive definite `log_px` is NaN, and $C_i$ is made of the absolute values of
    its eigenvalues.

    `rows` (n,) are indices among the N, as in `log_evidence(approximation, x, rows=torch.arange(N))`, which corrects
    the estimate by importance sampling; a share of the draws from the prior (`prior_share=0.1`) covers the tails of a
    normal that is too narrow, and further modes. The guide runs the model to get the order and the supports of the
    latents, so each draw costs two passes of the decoder.

    Args:
        program: the program whose posteriors are approximated.
        events: the shape of each latent's u for one row, by site.
        row_dim: the dimension of the plate over rows.
        program_rows: the program's own indices (N,) of the rows; None where it has none.
        results: `mode`, the lower triangle of a square root of `covariance`, `log_px` and `converged`.
    """

    mode: Tensor
    scale_tril: Tensor
    kind = "estimate"

    def __init__(
        self,
        program: Program,
        events: dict[str, torch.Size],
        row_dim: int,
        program_rows: Tensor | None,
        results: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        super().__init__(program, program_rows)
        self.events, self.row_dim = events, row_dim
        mode, scale_tril, self.log_px, self.converged = results
        self.register_buffer("mode", mode)
        self.register_buffer("scale_tril", scale_tril)

    @property
    def covariance(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @accepts_row_inputs
    def guide(self, x: Tensor, rows: Tensor | None = None, **row_inputs: object) -> None:
        """Draw the latents of some rows.

        Args:
            x: the rows (n, D).
            rows: their indices (n,) among the N.
            **row_inputs: what the program's model takes.
        """
        rows = self._check_rows(rows, len(self.mode), "approximated")
        with poutine.block(hide_fn=_is_not_latent), _SampleFromNormals(self, rows):
            self.model(x, rows=rows, **row_inputs)


def _is_not_latent(msg: Message) -> bool:
    return msg["type"] == "param" or (msg["type"] == "sample" and msg["is_observed"])


class _SampleFromNormals(Messenger):
    """Draw the model's latents from the rows' normals: each site from its block, given the sites before it."""

    def __init__(self, table: LaplaceApproximation, rows: Tensor) -> None:
        super().__init__()
        index = (slice(None), *[None] * (-1 - table.row_dim))  # new axes for plates to the right of the rows'
        self.loc, self.tril = table.mode[rows][index], table.scale_tril[rows][index]
        sizes = [event.numel() for event in table.events.values()]
        ends = itertools.accumulate(sizes)
        self.blocks = {name: slice(end - size, end) for name, size, end in zip(table.events, sizes, ends, strict=True)}
        self.events = table.events
        self.noise: list[Tensor] = []  # the standard normal noise of the sites drawn so far
        self.current: tuple[MultivariateNormal, Transform | None] | None = None  # of the site being drawn

    def _pyro_sample(self, msg: Site) -> None:
        if msg["is_observed"] or msg["name"] not in self.blocks:
            return
        block = self.blocks[msg["name"]]
        loc = self.loc[..., block]
        if self.noise:
            loc = loc + (self.tril[..., block, : block.start] @ torch.cat(self.noise, -1)[..., None])[..., 0]
        normal = MultivariateNormal(loc, scale_tril=self.tril[..., block, block])
        transform = _transform_from_flat(msg, self.events[msg["name"]])
        self.current = normal, transform
        msg["fn"] = normal if transform is None else TransformedDistribution(normal, [transform])

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["is_observed"] or msg["name"] not in self.blocks or self.current is None:
            return
        normal, transform = self.current
        u = msg["value"] if transform is None else transform.inv(msg["value"])
        difference = (u - normal.loc)[..., None]
        self.noise.append(torch.linalg.solve_triangular(normal.scale_tril, difference, upper=False)[..., 0])


def _transform_from_flat(site: Site, event: torch.Size) -> Transform | None:
    """The map from a vector of reals of event shape `event` to a site's support; None where it is the identity."""
    to_site = inner = transform_to_support(site)
    if len(event) != 1:
        return ComposeTransform([ReshapeTransform(torch.Size([event.numel()]), event), to_site])
    while isinstance(inner, IndependentTransform):
        inner = inner.base_transform
    return None if isinstance(inner, ComposeTransform) and not inner.parts else to_site


@check_call
def laplace_approximation(
    program: Program,
    x: RowsGiven,
    *,
    steps: int = 50,
    starts: int = 4,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    batch_size: int = 1000,
    seed: int = 0,
) -> LaplaceApproximation:
    r"""The Laplace approximation of each row's posterior, $N(u^*_i, (-H_i)^{-1})$, $u^*_i = \arg\max \log p(x_i, u)$.

    H is the Hessian at the mode (Laplace 1774; Tierney & Kadane 1986), by K passes of second derivatives through the
    program. Newton's method with Levenberg damping starts from the mean of some draws of the guide, that of some draws
    of the prior, then draws of the two in turn. The highest mode is kept, so more starts find more modes. Modes are
    those of the density over the unconstrained space, its Jacobian counted. None of the program's parameters changes.
    Same seed, same machine, same bits.

    Raises `InputError` for discrete latents, for latents in a plate other than that over rows, and where no start has a
    finite density; `RowsError` where a site lies outside the plate over rows.

    Args:
        program: a program whose latents are continuous and lie in one plate over rows.
        x: a tensor (N, D), a split, or a data set (its test split).
        steps: Newton steps from each start, at most.
        starts: the number of starts.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        mask: booleans (N, D), true where a value was observed; a split brings its own.
        batch_size: rows worked on at once.
        seed: seed of the starts' draws.

    Returns:
        A program with the same model, whose guide has a normal for each row; `log_px` (N,) in nats per row.
    """
    if min(steps, starts, batch_size) < 1:
        raise InputError(f"steps, starts and batch_size must be one or more, got {steps}, {starts} and {batch_size}")
    require_density(program)
    split = as_split(x, "test")
    full = full_batch(program, split, rows=rows, labels=labels, mask=mask)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        modes, events, row_dim = _find_modes(program, full, steps, starts, batch_size)
    scale_tril, log_px, converged = normal_at(modes)
    results = modes.u, scale_tril.to(modes.u), log_px + split.log_jacobian, converged
    return LaplaceApproximation(program, events, row_dim, full.rows, results)


def _find_modes(
    program: Program, full: Batch, steps: int, starts: int, batch_size: int
) -> tuple[Expansion, dict[str, torch.Size], int]:
    """The expansion at each row's mode, the event shapes of the latents, and the dimension of the row plate."""
    program, plates = find_row_by_row(program, full)
    modes = []
    for index in torch.arange(len(full.x), device=full.x.device).split(batch_size):
        batch = full.take(index)
        plates.check(batch.x, batch.mask)
        require_inside(program, plates, replace(batch, rows=index))
        with torch.no_grad():
            joint = UnconstrainedJoint(program, plates, batch)
            events = _events(joint)
            modes.append(highest_mode(joint, steps, starts))
    joined = (torch.cat([getattr(part, field.name) for part in modes]) for field in fields(Expansion))
    return Expansion(*joined), events, joint.row_dim


def _events(joint: UnconstrainedJoint) -> dict[str, torch.Size]:
    """The shape of each latent's u for one row; `InputError` for latents in another plate."""
    events = {}
    for name, shape in joint.shapes.items():
        plates, events[name] = shape[: -1 - joint.row_dim], shape[-1 - joint.row_dim :]
        if plates.numel() > 1:
            raise InputError(
                f"the latent {name} lies in a plate other than that over rows, and one normal covers all its "
                "elements here: make them one event (.to_event) instead of a plate"
            )
    return events
