"""A program is a model and a guide; encoding, reconstructing and sampling need only these two."""

from collections.abc import Callable
from types import MethodType
from typing import Any, ClassVar

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Categorical

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import PlateStructure, find_model_plates, find_plates
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import UnconditionObserved, sample_sites
from pyro_vae.typing import RowLatents, Rows

ACTIVE_VARIANCE = 0.01


class Program(nn.Module):
    """Two plain Pyro functions, `model(x)` and `guide(x)`, as one object that can be fitted, scored, sampled and saved.

    Parameters that the functions create by `pyro.param` and `pyro.module` belong to the program: each call of `model`
    and `guide` uses this program's parameters and no others, so that two programs may use the same names. Functions get
    `rows`, `labels`, `mask` or `num_rows` by taking a keyword of that name (`docs/programs.md` explains each).

    >>> import pyro, pyro.distributions as dist, pyro_vae as pv
    >>> def model(x):
    ...     loc = pyro.param("loc", torch.zeros(x.shape[1]))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(loc + z[..., None], 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     weight = pyro.param("weight", torch.ones(x.shape[1]))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x @ weight, 1.0))
    >>> program = pv.Program(model, guide)
    >>> fitted = pv.fit(program, torch.randn(64, 3), epochs=2)
    >>> pv.log_evidence(program, torch.randn(5, 3), num_samples=50).log_px.shape
    torch.Size([5])
    """

    no_density: ClassVar[str] = ""  # why there is no p(x), for a subclass that has none
    num_features: int | None  # the width of x, set by the first fit where it is None

    def __init__(self, model: Callable[..., object], guide: Callable[..., object]) -> None:
        super().__init__()
        self._model, self._guide = model, guide
        owners = [function.__self__ if isinstance(function, MethodType) else function for function in (model, guide)]
        if any(isinstance(owner, Program) for owner in owners):
            raise InputError("this is a program already: fit it as it is, or give Program two plain functions")
        self.owners = nn.ModuleList(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))
        self.num_features = None

    def model(self, x: Rows, **row_inputs: Any) -> Any:
        with use_param_store(self):
            return bind_supported_kwargs(self._model)(x, row_inputs)

    def guide(self, x: Rows, **row_inputs: Any) -> Any:
        with use_param_store(self):
            return bind_supported_kwargs(self._guide)(x, row_inputs)

    model.accepts_row_inputs = guide.accepts_row_inputs = True  # type: ignore[attr-defined]  # for `bind_supported_kwargs`

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Before a fit: set initial values from data. By default nothing is set.

        Args:
            mean: the mean (D,) of the training rows.
            rows: some of them (n, D).
        """

    def check_labels(self, labels: Tensor) -> None:
        """Raise `InputError` for labels (N,) that the program cannot take. By default it takes any."""

    def log_prior(self) -> Tensor | None:
        """The parameters' log prior, () nats, differentiable, which `fit` adds to the objective; None by default."""
        return None

    def encode(self, x: Rows, **row_inputs: Any) -> RowLatents:
        """Posterior means (N, K), latent sites concatenated; from 64 draws where a site has no mean."""
        return encode(self, x, **row_inputs)

    def reconstruct(self, x: Rows, **row_inputs: Any) -> Rows:
        """E[x | z] at the guide's posterior means, (N, D)."""
        return reconstruct(self, x, **row_inputs)

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n new rows from the model, (n, D): z from the prior, then x from the likelihood."""
        return sample(self, n, seed=seed)


class _SetLatentsToMean(Messenger):
    """Set every latent site to its distribution's mean instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        fn = msg["fn"]
        is_category = isinstance(getattr(fn, "base_dist", fn), Categorical)  # an integer: a model may index by it
        msg["value"], msg["done"] = (fn.mode if is_category else distribution_mean(fn)), True


def distribution_mean(fn: Any, draws: int = 64) -> Tensor:
    """The mean of a site's distribution; from draws where it has none in closed form, the mode of categories."""
    fn = getattr(fn, "values", fn)  # of all values, where some were not observed
    try:
        mean = fn.mean
    except NotImplementedError:
        return fn.sample((draws,)).mean(0)
    if mean.isnan().any() and isinstance(getattr(fn, "base_dist", fn), Categorical):
        return fn.mode.to(torch.get_default_dtype())  # a category has no mean: the most probable one
    if mean.isnan().any():
        raise InputError(f"a {type(fn).__name__} has no mean to encode or reconstruct with")
    return mean


@torch.no_grad()
def encode(program: Any, x: Rows, **row_inputs: Any) -> RowLatents:
    """Posterior means under the guide, (N, K); several latent sites are concatenated in the order they are drawn."""
    x = x.to(*device_and_dtype(program, like=x))
    return _means(program, _plates_at(program, x, row_inputs), x, row_inputs)


def _means(program: Any, plates: PlateStructure, x: Tensor, row_inputs: dict[str, Any]) -> RowLatents:
    sites = sample_sites(_guide_at_means(program, x, row_inputs)).values()
    latents = [site for site in sites if plates.row_plate_frame(site) and not site["infer"].get("is_auxiliary")]
    if not latents:
        raise InputError("the guide draws no latent for each row, so rows cannot be encoded")
    return torch.cat(
        [plates.rows_to_front(site, site["value"]).to(*device_and_dtype(program, like=x)) for site in latents], -1
    )


@torch.no_grad()
def active_units(program: Any, x: Rows, *, plates: PlateStructure | None = None, **row_inputs: Any) -> tuple[int, int]:
    """How many latents have posterior means with a variance over rows above 0.01, and the number of latents.

    Burda et al. (arXiv:1509.00519). The variance is the covariance of two estimates of the means, so that means from
    draws (a flow's) do not vary because of their noise.
    """
    x = x.to(*device_and_dtype(program, like=x))
    plates, before = plates or _plates_at(program, x, row_inputs), torch.get_rng_state()
    first = second = _means(program, plates, x, row_inputs)
    if x.device.type != "cpu" or not torch.equal(before, torch.get_rng_state()):  # random numbers were drawn
        second = _means(program, plates, x, row_inputs)
    variance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    return int((variance > ACTIVE_VARIANCE).sum()), first.shape[1]


@torch.no_grad()
def reconstruct(program: Any, x: Rows, **row_inputs: Any) -> Rows:
    """E[x | z] with every latent at its posterior mean under the guide, (N, D)."""
    x = x.to(*device_and_dtype(program, like=x))
    plates, guide = _plates_at(program, x, row_inputs), _guide_at_means(program, x, row_inputs)
    with poutine.block(), use_param_store(program), evaluating(program):
        model = poutine.trace(poutine.replay(bind_supported_kwargs(program.model), trace=guide)).get_trace(
            x, row_inputs
        )
    observed = [site for site in sample_sites(model).values() if site["is_observed"]]
    return _concatenate(plates, observed, lambda site: distribution_mean(site["fn"]))


def _plates_at(program: Any, x: Tensor, row_inputs: dict[str, Any]) -> PlateStructure:
    with poutine.block(), use_param_store(program), evaluating(program):
        return find_plates(program, Batch(x, **row_inputs))


def _guide_at_means(program: Any, x: Tensor, row_inputs: dict[str, Any]) -> Trace:
    """The guide's trace with every latent at its mean."""
    with poutine.block(), use_param_store(program), evaluating(program):
        return poutine.trace(_SetLatentsToMean()(bind_supported_kwargs(program.guide))).get_trace(x, row_inputs)


def _concatenate(plates: PlateStructure, sites: list[Any], value: Callable[[Any], Tensor]) -> Tensor:
    """The values of the sites that have one for each row, concatenated, (n, D)."""
    inside = [site for site in sites if plates.row_plate_frame(site)]
    if not inside:
        raise InputError("the model observes nothing for each row")
    return torch.cat([plates.rows_to_front(site, value(site)) for site in inside], -1)


@torch.no_grad()
def sample(
    program: Any, n: int, *, num_features: int | None = None, seed: int | None = None, labels: Tensor | None = None
) -> Tensor:
    """n new rows from the model, (n, D): every site is drawn, the observed ones included.

    The model runs on n placeholder rows, so its x-sites are drawn and not conditioned on. `num_features` is the width
    of the placeholder, for models that ask x for its shape.
    """
    if n < 1:
        raise InputError(f"expected one row or more to draw, got {n}")
    width = num_features or getattr(program, "num_features", None) or 1
    device, dtype = device_and_dtype(program)
    placeholder = torch.zeros(n, width, device=device, dtype=dtype)
    return _draw(program, Batch(placeholder, labels=labels), seed, lambda site: site["value"])


@torch.no_grad()
def sample_means(program: Any, n: int, *, num_features: int | None = None, seed: int | None = None) -> Tensor:
    """E[x | z] for n draws of the latents from the model, (n, D): the likelihood's means, without its noise."""
    width = num_features or getattr(program, "num_features", None) or 1
    device, dtype = device_and_dtype(program)
    placeholder = torch.zeros(n, width, device=device, dtype=dtype)
    return _draw(program, Batch(placeholder), seed, lambda site: distribution_mean(site["fn"]))


def _draw(program: Any, batch: Batch, seed: int | None, value: Callable[[Any], Tensor]) -> Tensor:
    with poutine.block(), seeded(seed), use_param_store(program), evaluating(program):
        plates = find_model_plates(program, batch)
        given = {} if batch.labels is None else {"labels": batch.labels}
        trace = poutine.trace(UnconditionObserved()(bind_supported_kwargs(program.model))).get_trace(batch.x, given)
    return _concatenate(
        plates, [site for site in sample_sites(trace).values() if site["infer"].get("was_observed")], value
    )
