"""A program is a model and a guide; encoding, reconstructing and sampling need only these two."""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, ClassVar

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.distributions import Distribution as TorchDistribution

from pyro_vae.context_managers import PYRO_LOCK, evaluating, seeded
from pyro_vae.distributions import Observed
from pyro_vae.errors import InputError
from pyro_vae.programs.find_plates import find_model_plates, find_plates_on_few
from pyro_vae.programs.parameters import ParamStoreModule, device_and_dtype, use_param_store
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.program_defaults import check_labels, num_features_of
from pyro_vae.programs.pyro_guides import mend_pyro_guide
from pyro_vae.programs.row_inputs import (
    Batch,
    RowInputs,
    accepts_row_inputs,
    bind_supported_kwargs,
    model_takes,
    require_mask,
    require_taken,
)
from pyro_vae.programs.traces import Site, draw_observed, is_input, is_subsample, sample_sites, unwrap_independent
from pyro_vae.typing import Distribution, RowLatents, Rows
from pyro_vae.typing import Program as AnyProgram

ACTIVE_VARIANCE = 0.01
FEW_ROWS = 8  # that a program is looked at with


class Program(ParamStoreModule):
    """Two plain Pyro functions, `model(x)` and `guide(x)`, as one object that can be fitted, scored, sampled and saved.

    Parameters that the functions create by `pyro.param` and `pyro.module` belong to the program: each call of `model`
    and `guide` uses this program's parameters and no others, so that two programs may use the same names. Functions get
    `rows`, `labels`, `mask` or `num_rows` by taking a keyword of that name (`docs/programs.md` explains each).

    Args:
        model: the Pyro function p(x, z) of rows x (N, D), which observes x.
        guide: the Pyro function q(z|x) of rows x (N, D), with a sample site for each latent of the model.

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

    @accepts_row_inputs
    def model(self, x: Rows, *args: Any, **row_inputs: Any) -> object:  # Any: a subclass names those that it takes
        """Run the model with this program's parameters, on rows x (N, D) and those of their inputs that it takes."""
        return self._run(self._model, x, args, row_inputs)

    @accepts_row_inputs
    def guide(self, x: Rows, *args: Any, **row_inputs: Any) -> object:
        """Run the guide with this program's parameters, on rows x (N, D) and those of their inputs that it takes."""
        return self._run(self._guide, x, args, row_inputs)

    def takes_row_input(self, name: str) -> bool:
        """Whether the model takes a row input: rows, labels, mask, num_rows or one of your own."""
        return model_takes(self, name)

    @property
    def functions(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """Model and guide as functions whose signatures say what row inputs they take."""
        return (
            self._model if type(self).model is Program.model else self.model,
            self._guide if type(self).guide is Program.guide else self.guide,
        )

    def _run(self, function: Callable[..., object], x: Rows, args: tuple[object, ...], row_inputs: RowInputs) -> object:
        if args:
            raise TypeError("a program's functions take x, and its inputs (rows, labels, mask, num_rows) by keyword")
        mend_pyro_guide(self._guide, self._model)
        with use_param_store(self):
            return bind_supported_kwargs(function)(x, row_inputs)

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

    def encode(self, x: Rows, **row_inputs: object) -> RowLatents:
        """Posterior means (N, K), latent sites concatenated; from 64 draws where a site has no mean."""
        return encode(self, x, **row_inputs)

    def reconstruct(self, x: Rows, **row_inputs: object) -> Tensor:
        """E[x | z] at the guide's posterior means, (N, D); of a model that observes something else, its mean."""
        return reconstruct(self, x, **row_inputs)

    def sample(self, n: int, seed: int | None = None, **row_inputs: object) -> Tensor:
        """New rows from the model: z from the prior, then x from the likelihood.

        Args:
            n: the number of rows.
            seed: a seed of the random numbers; None continues with torch's generator.
            **row_inputs: inputs of the new rows, for a model that takes them.

        Returns:
            Rows (n, D).
        """
        return sample(self, n, seed=seed, row_inputs=row_inputs)


class _SetLatentsToMean(Messenger):
    """Set every latent site to its distribution's mean instead of a draw."""

    def _pyro_sample(self, msg: Site) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or msg["done"] or is_subsample(msg):
            return
        fn = msg["fn"]
        is_category = isinstance(unwrap_independent(fn), Categorical)  # an integer: a model may index by it
        msg["value"], msg["done"] = (fn.mode if is_category else distribution_mean(fn)), True


def distribution_mean(fn: Distribution, draws: int = 64) -> Tensor:
    """The mean of a site's distribution, the mode of categories; `InputError` where it has neither.

    Args:
        fn: any Pyro distribution.
        draws: the number of draws whose mean is taken where there is none in closed form.

    Returns:
        A tensor of the distribution's shape.
    """
    if isinstance(fn, Observed):
        fn = fn.values  # of all values, where some were not observed
    assert isinstance(fn, TorchDistribution)
    mean = mean_in_closed_form(fn)
    if mean is None:
        drawn: Tensor = fn.sample(torch.Size([draws]))
        return drawn.mean(0)
    if mean.isnan().any() and isinstance(unwrap_independent(fn), Categorical):
        mode: Tensor = fn.mode
        return mode.to(torch.get_default_dtype())  # a category has no mean: the most probable one
    if mean.isnan().any():
        raise InputError(f"a {type(fn).__name__} has no mean to encode or reconstruct with")
    return mean


def mean_in_closed_form(fn: Distribution) -> Tensor | None:
    """The mean of a distribution; None where it has none in closed form."""
    assert isinstance(fn, TorchDistribution)
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        return None
    return mean


@torch.no_grad()
def encode(program: AnyProgram, x: Rows, **row_inputs: object) -> RowLatents:
    """Posterior means under the guide; several latent sites are concatenated in the order they are drawn.

    Args:
        program: any program.
        x: rows (N, D).
        **row_inputs: their inputs: `rows`, `labels`, `mask`.

    Returns:
        The means (N, K); from 64 draws where a site has no mean in closed form.
    """
    batch = _checked_batch(program, x, row_inputs)
    return _means(program, _plates_at(program, batch), batch)


def _means(program: AnyProgram, plates: PlateStructure, batch: Batch) -> RowLatents:
    sites = sample_sites(_guide_at_means(program, batch)).values()
    latents = [site for site in sites if plates.row_plate_frame(site) and not site["infer"].get("is_auxiliary")]
    if not latents:
        raise InputError("the guide draws no latent for each row, so rows cannot be encoded")
    return torch.cat(
        [plates.rows_to_front(site, site["value"]).to(*device_and_dtype(program, like=batch.x)) for site in latents], -1
    )


@torch.no_grad()
def active_units(
    program: AnyProgram, x: Rows, *, plates: PlateStructure | None = None, **row_inputs: object
) -> tuple[int, int]:
    """How many latents have posterior means with a variance over rows above 0.01, and the number of latents.

    Burda et al. (arXiv:1509.00519). The variance is the covariance of two estimates of the means, so that means from
    draws (a flow's) do not vary because of their noise.

    Args:
        program: any program.
        x: rows (N, D).
        plates: the program's plates, if they are known.
        **row_inputs: inputs of the rows: `rows`, `labels`, `mask`.

    Returns:
        The number of active latents, and the number K of all.
    """
    batch = _checked_batch(program, x, row_inputs)
    plates, before = plates or _plates_at(program, batch), torch.get_rng_state()
    first = second = _means(program, plates, batch)
    if batch.x.device.type != "cpu" or not torch.equal(before, torch.get_rng_state()):  # random numbers were drawn
        second = _means(program, plates, batch)
    variance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    return int((variance > ACTIVE_VARIANCE).sum()), first.shape[1]


@torch.no_grad()
def reconstruct(program: AnyProgram, x: Rows, **row_inputs: object) -> Tensor:
    """E[x | z] with every latent at its posterior mean under the guide.

    Sites that observe a row input, such as a label, are left out where there are others.

    Args:
        program: any program.
        x: rows (N, D).
        **row_inputs: their inputs: `rows`, `labels`, `mask`.

    Returns:
        The means (N, D); of a model that observes something other than x, the means of that.
    """
    batch = _checked_batch(program, x, row_inputs)
    plates, guide = _plates_at(program, batch), _guide_at_means(program, batch)
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        model = poutine.trace(poutine.replay(bind_supported_kwargs(program.model), trace=guide)).get_trace(
            batch.x, batch.row_inputs
        )
    observed = [site for site in sample_sites(model).values() if site["is_observed"]]
    observed = [site for site in observed if not is_input(site["value"], batch.row_inputs)] or observed
    return _concatenate(plates, observed, lambda site: distribution_mean(site["fn"]))


def _checked_batch(program: AnyProgram, x: Rows, row_inputs: RowInputs) -> Batch:
    """Rows with their inputs on the program's device, checked before the program runs."""
    batch = Batch.of(x.to(*device_and_dtype(program, like=x)), row_inputs)
    require_mask(program, batch.mask)
    require_taken(program, batch.inputs)
    if batch.labels is not None:
        check_labels(program, batch.labels)
    return batch


def _plates_at(program: AnyProgram, batch: Batch) -> PlateStructure:
    few = batch.take(torch.arange(min(len(batch.x), FEW_ROWS), device=batch.x.device))
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        return find_plates_on_few(program, few, lambda: batch)[1]


def _guide_at_means(program: AnyProgram, batch: Batch) -> Trace:
    """The guide's trace with every latent at its mean."""
    guide = _SetLatentsToMean()(bind_supported_kwargs(program.guide))
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        return poutine.trace(guide).get_trace(batch.x, batch.row_inputs)


def _concatenate(plates: PlateStructure, sites: Sequence[Site], value: Callable[[Site], Tensor]) -> Tensor:
    """The values of the sites that have one for each row, concatenated, (n, D)."""
    inside = [site for site in sites if plates.row_plate_frame(site)]
    if not inside:
        raise InputError("the model observes nothing for each row")
    return torch.cat([plates.rows_to_front(site, value(site)) for site in inside], -1)


@torch.no_grad()
def sample(
    program: AnyProgram,
    n: int,
    *,
    num_features: int | None = None,
    seed: int | None = None,
    row_inputs: RowInputs | None = None,
) -> Tensor:
    """New rows from the model: every site is drawn, the observed ones included.

    The model runs on n placeholder rows, so its x-sites are drawn and not conditioned on.

    Args:
        program: any program.
        n: the number of rows.
        num_features: the width of the placeholder, for models that ask x for its shape.
        seed: a seed of the random numbers; None continues with torch's generator.
        row_inputs: inputs of the new rows, such as `labels` (n,), for a model that takes them.

    Returns:
        Rows (n, D).
    """
    if n < 1:
        raise InputError(f"expected one row or more to draw, got {n}")
    batch = _checked_batch(program, _placeholder(program, n, num_features), row_inputs or {})
    return _draw(program, batch, seed, lambda site: site["value"])


@torch.no_grad()
def sample_means(program: AnyProgram, n: int, *, num_features: int | None = None, seed: int | None = None) -> Tensor:
    """E[x | z] for draws of the latents from the model: the likelihood's means, without its noise.

    Args:
        program: any program.
        n: the number of draws.
        num_features: the width of the placeholder, for models that ask x for its shape.
        seed: a seed of the random numbers; None continues with torch's generator.

    Returns:
        Means (n, D).
    """
    return _draw(
        program, Batch(_placeholder(program, n, num_features)), seed, lambda site: distribution_mean(site["fn"])
    )


def _placeholder(program: AnyProgram, n: int, num_features: int | None) -> Tensor:
    """n rows of zeros, of the width that is given or that the program keeps."""
    device, dtype = device_and_dtype(program)
    return torch.zeros(n, num_features or num_features_of(program) or 1, device=device, dtype=dtype)


def _draw(program: AnyProgram, batch: Batch, seed: int | None, value: Callable[[Site], Tensor]) -> Tensor:
    with PYRO_LOCK, poutine.block(), seeded(seed), use_param_store(program), evaluating(program):
        try:
            plates = find_model_plates(program, batch)
            sites = draw_observed(program, batch)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(
                "rows are drawn by running the model on rows of zeros, whose values it may not read, and it ended with "
                f"{type(error).__name__}: {str(error).splitlines()[0]}; let what depends on x (a total, a length) "
                "have a usual value where x is zero"
            ) from error
    return _concatenate(plates, [site for site in sites.values() if site["infer"].get("was_observed")], value)
