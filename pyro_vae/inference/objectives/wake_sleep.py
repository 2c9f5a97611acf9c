"""Wake–sleep and reweighted wake–sleep: the guide is fitted to draws, through which no gradient flows."""

import math

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.differentiable_elbo import Arguments, DifferentiableELBO, Keywords, PyroFunction
from pyro_vae.inference.objectives.importance_weighted import (
    Scale,
    in_plates,
    is_autoregressive,
    same_scale,
    shared_plates,
)
from pyro_vae.programs.traces import Site, UnconditionObserved, sample_sites


class ReweightedWakeSleep(DifferentiableELBO):
    r"""Reweighted wake–sleep for each row: θ and φ each have an objective of their own; latents may be discrete.

    With S draws $z_{si} \sim q_\phi(z | x_i)$ and self-normalized shares $\bar w_{si} \propto
    p_\theta(x_i, z_{si}) / q_\phi(z_{si} | x_i)$ of each row, both as constants, the gradients are those of

    - wake-θ: $-\sum_i \sum_s \bar w_{si} \log p_\theta(x_i, z_{si})$,
    - wake-φ: $-\sum_i \sum_s \bar w_{si} \log q_\phi(z_{si} | x_i)$,
    - sleep-φ: $-\sum_j \log q_\phi(z_j | x_j)$ at as many simulated rows $(x_j, z_j) \sim p_\theta$ as x has,

    where θ has the gradient of wake-θ, and φ that of `insomnia` · wake-φ + (1 − `insomnia`) · sleep-φ. Wake-φ decreases
    KL(p ‖ q) on the data, up to a bias that vanishes as S grows; sleep-φ decreases it on rows that the model simulates,
    without a bias. The value, which the losses return, is minus the bound of `ImportanceWeighted_ELBO`, in nats; it is
    reported, not minimized. A parameter that model and guide share (a `VampPrior`'s guide) belongs to θ and to φ, and
    has the sum of both gradients.

    Rows are indexed by the plates that all sites share; scales multiply a row's terms after its shares are known, and
    masks count. Rows are simulated by the model without its observations, with the labels, the mask and other inputs of
    x, but without `rows`, since they have no index in the training set; values outside the mask are 0 for the guide, as
    in data. x has to be the first argument.

    Raises `RowsError` where a site lies outside the plates that the others share; `InputError` for a scale on latents
    beyond the observed sites' (β, a KL warm-up), for model and guide that do not draw the same latents, for inverse
    autoregressive flows, which cannot score points that they did not draw, for `insomnia` above 0 with one particle,
    whose wake-φ has mean zero, and, below 1, where the model does not observe x whole in one site.

    Bornschein & Bengio, arXiv:1406.2751; Le et al., arXiv:1805.10469, who compare the two objectives for φ.

    Args:
        num_particles: S, draws of z for each row and step.
        insomnia: the share of wake-φ in the gradient of φ, from 0 to 1.
        vectorize_particles: whether the draws are vectorized, by a plate to the left of the program's own.
        max_plate_nesting: the number of the program's plate dimensions; by default found in the first step.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> x = (torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    >>> fitted = pv.fit(vae, x, epochs=5, batch_size=20, loss=ReweightedWakeSleep(5, insomnia=0.5))
    >>> fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
    True
    """

    @check_call
    def __init__(
        self,
        num_particles: int = 5,
        *,
        insomnia: float = 1.0,
        vectorize_particles: bool = False,
        max_plate_nesting: int | float = math.inf,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        if num_particles < 1:
            raise InputError(f"num_particles must be one or more, got {num_particles}")
        if not 0 <= insomnia <= 1:
            raise InputError(f"insomnia is a share from 0 (sleep-φ only) to 1 (wake-φ only), got {insomnia}")
        if insomnia > 0 and num_particles == 1:
            raise InputError("the wake-φ gradient of one particle has mean zero: take num_particles=2, or insomnia=0")
        self.insomnia = insomnia

    def _get_trace(
        self, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
    ) -> tuple[Trace, Trace]:
        with _Detached():
            pair: tuple[Trace, Trace] = super()._get_trace(model, guide, args, kwargs)
        return pair

    def tensor_loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor:
        """The bound's value, with the gradients of the two objectives; without gradients no rows are simulated.

        Args:
            model: a Pyro function.
            guide: another, of the same arguments.
            *args: their arguments, x first.
            **kwargs: their keyword arguments.

        Returns:
            The loss (), nats.
        """
        loss = super().tensor_loss(model, guide, *args, **kwargs)
        if self.insomnia == 1 or not torch.is_grad_enabled():
            return loss
        sleep = (1 - self.insomnia) * _sleep_loss(model, guide, args, kwargs)
        return loss + (sleep - sleep.detach())

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        rows = [_row_terms(model, guide) for model, guide in traces]
        log_p, log_q = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        particle_dims = [0] if len(traces) == self.num_particles else [0, log_p.dim() - int(self.max_plate_nesting)]
        log_weights, scale = (log_p - log_q).detach(), rows[0][2]
        bounds = torch.logsumexp(log_weights, particle_dims, keepdim=True) - math.log(self.num_particles)
        shares = torch.exp(log_weights - bounds) / self.num_particles
        surrogate = -(scale * shares * (log_p + self.insomnia * log_q)).sum()
        return -(scale * bounds).sum() + (surrogate - surrogate.detach())


class WakeSleep(ReweightedWakeSleep):
    r"""Wake–sleep: θ maximizes $\log p_\theta(x_i, z_i)$ at draws of q, φ $\log q_\phi(z_j | x_j)$ at model draws.

    `ReweightedWakeSleep(1, insomnia=0)`, with the same errors; θ's gradient is that of the ELBO, φ's is not. Hinton,
    Dayan, Frey & Neal, *The wake-sleep algorithm for unsupervised neural networks*, Science 268 (1995).

    >>> import pyro_vae as pv
    >>> _ = torch.manual_seed(0)
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> x = (torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    >>> fitted = pv.fit(vae, x, epochs=5, batch_size=20, loss=WakeSleep())
    >>> fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
    True
    """

    def __init__(self) -> None:
        super().__init__(1, insomnia=0.0)


class _Detached(Messenger):
    """Detaches draws of latents, so that no gradient flows through them, nor through what is computed from them."""

    def _pyro_post_sample(self, msg: Site) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


def _row_terms(model: Trace, guide: Trace) -> tuple[Tensor, Tensor, Scale]:
    """log p(x, z) and log q(z | x) in the shape of the plates that all sites share, and a row's scale."""
    model_sites, guide_sites = sample_sites(model), sample_sites(guide)
    sites = [*model_sites.values(), *guide_sites.values()]
    row_scale = _common_scale(model_sites, guide_sites)
    keep, width = shared_plates(sites, "wake–sleep")
    log_p, log_q = (
        sum((in_plates(site, keep, width) for site in part.values()), torch.zeros(()))
        for part in (model_sites, guide_sites)
    )
    return torch.as_tensor(log_p), torch.as_tensor(log_q), row_scale


def _common_scale(model: dict[str, Site], guide: dict[str, Site]) -> Scale:
    """The scale that all sites share; `InputError` unless they do and model and guide draw the same latents."""
    observed = [site for site in model.values() if site["is_observed"]]
    if not observed:
        raise InputError("the model observes nothing, so there is nothing to weigh")
    if other := {name for name, site in model.items() if not site["is_observed"]} ^ guide.keys():
        raise InputError(
            f"model and guide have to draw the same latents for wake–sleep; only one of them draws "
            f"{', '.join(sorted(other))}"
        )
    for name, site in guide.items():
        if is_autoregressive(site["fn"]):
            raise InputError(
                f"{name} is drawn by an autoregressive flow, which wake–sleep would score at draws that it does not "
                "remember, one dimension at a time; take a coupling flow"
            )
    scale = observed[0]["scale"]
    if not all(same_scale(site["scale"], scale) for site in [*model.values(), *guide.values()]):
        raise InputError(
            "latent and observed sites have different scales, and wake–sleep has no β: take beta=1 and kl_warmup=0, "
            "and scale model and guide alike"
        )
    return scale


def _sleep_loss(model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords) -> Tensor:
    """−log q at rows and latents that the model simulates, with the sites' scales and masks."""
    rest = (_without_rows(each) if isinstance(each, dict) else each for each in args[1:])
    args, kwargs = (*args[:1], *rest), _without_rows(kwargs)
    try:
        with torch.no_grad():
            given = next((each for each in args[1:] if isinstance(each, dict)), kwargs)
            simulated = poutine.trace(UnconditionObserved(given)(model)).get_trace(*args, **kwargs)
        x = _simulated_x(simulated, args, kwargs)
        trace = poutine.trace(poutine.replay(guide, trace=simulated)).get_trace(x, *args[1:], **kwargs)
    except InputError as error:
        raise InputError(f"no rows can be simulated from this program, take insomnia=1: {error}") from error
    return -torch.as_tensor(prune_subsample_sites(trace).log_prob_sum())


def _without_rows(row_inputs: Keywords) -> Keywords:
    """Row inputs without `rows`, the indices in the training set."""
    return {key: value for key, value in row_inputs.items() if key != "rows"}


def _simulated_x(simulated: Trace, args: Arguments, kwargs: Keywords) -> Tensor:
    """The simulated values of x, the first argument; `InputError` unless one site observes the whole of it."""
    x = args[0] if args else None
    sites = [site for site in sample_sites(simulated).values() if site["infer"].get("was_observed")]
    observed = sites[0]["infer"]["obs"] if len(sites) == 1 else None
    if not isinstance(x, Tensor) or not isinstance(observed, Tensor) or not _has_same_values(observed, x):
        raise InputError("the model has to observe x, its first argument, the whole of it at one site")
    value = sites[0]["value"].reshape(x.shape).to(x.dtype)
    row_inputs = [inputs for inputs in (*args[1:], kwargs) if isinstance(inputs, dict)]
    masks = [inputs["mask"] for inputs in row_inputs if "mask" in inputs]
    return value.masked_fill(~masks[0].bool(), 0) if masks else value


def _has_same_values(observed: Tensor, x: Tensor) -> bool:
    """Whether what a site observes is x, up to its shape and type."""
    return observed is x or (observed.numel() == x.numel() and torch.equal(observed.reshape(x.shape).to(x.dtype), x))
