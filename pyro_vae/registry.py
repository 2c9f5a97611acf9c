"""From settings to objects: the data set, the likelihood that suits it, the VAE, its objective, a user's program."""

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.data import Dataset, load_data
from pyro_vae.data.load import are_counts, known
from pyro_vae.errors import InputError
from pyro_vae.inference.elbos import FreeBits_ELBO, ImportanceWeighted_ELBO, factorizes
from pyro_vae.models.rows import Batch, sample_sites, seeded, traces_of
from pyro_vae.models.vae import VAE

DTYPES = {"float32": torch.float32, "float64": torch.float64}
OF_REALS = ("normal", "student-t")
OF_GREYS = (*OF_REALS, "continuous-bernoulli", "discretized-logistic")
OF_COUNTS = ("categorical", "poisson", "negative-binomial")
SCALED = (*OF_REALS, "discretized-logistic")


def data_of(settings: dict[str, Any], likelihood: str = "auto") -> Dataset:
    """The data set that the settings' data group names, its measure the one that the likelihood is for.

    Likelihoods of grey levels get pictures as they are; only those of real numbers get standardized columns.
    """
    binarize, standardize = settings["binarize"], settings["standardize"]
    if likelihood in (*OF_GREYS, *OF_COUNTS) and binarize is None:
        binarize = "none"
    if likelihood in (*OF_COUNTS, "continuous-bernoulli", "discretized-logistic") and standardize is None:
        standardize = False

    def load(standardize: bool | None) -> Dataset:
        return load_data(
            settings["data"],
            binarize=binarize,
            dequantize=settings["dequantize"],
            standardize=standardize,
            missing=settings["missing"],
            image_shape=settings["image_shape"],
            root=settings["data_root"],
            stream=settings.get("stream"),
        )

    data = load(standardize)
    if likelihood in OF_REALS and standardize is None and data.train.measure.levels is None:
        return data if data.train.measure.scale else load(True)  # counts, taken as real numbers
    return data


def choose_likelihood(asked: str, data: Dataset) -> tuple[str, str]:
    """The likelihood's name and why: what was asked for, or what the data's values call for.

    `InputError` where the one asked for gives the values no probability.
    """
    measure, stored = data.train.measure, known(data.train.stored)
    binary = measure.binarize != "none"
    low, high = stored.min().item(), stored.max().item()
    if asked == "bernoulli" and not binary:
        raise InputError(
            f"{data.name}: a bernoulli likelihood needs values of 0 or 1, found {low:.3g} to {high:.3g}; binarize "
            "pictures (--binarize stochastic), or leave the likelihood to --likelihood auto"
        )
    if asked == "continuous-bernoulli" and (measure.scale or (not measure.levels and (low < 0 or high > 1))):
        raise InputError(
            f"{data.name}: a continuous-bernoulli likelihood needs values in [0, 1], found {low:.3g} to {high:.3g}"
        )
    if asked == "discretized-logistic" and (measure.dequantize or (measure.levels or 0) < 2):
        raise InputError(
            f"{data.name}: a discretized-logistic likelihood needs pictures with whole grey levels, not dequantized; "
            "--likelihood auto chooses one for these values"
        )
    if asked in OF_COUNTS and (measure.levels or 0) > 1:
        raise InputError(
            f"{data.name}: a {asked} likelihood is for tables, and these are pictures; try discretized-logistic"
        )
    if asked in OF_COUNTS and (measure.scale or low < 0 or bool((stored != stored.round()).any())):
        raise InputError(
            f"{data.name}: a {asked} likelihood needs whole numbers from 0, not standardized; found {low:.3g} to "
            f"{high:.3g}"
        )
    if asked != "auto":
        return asked, "asked for"
    if binary and measure.levels and measure.levels > 1:
        return (
            "bernoulli",
            f"pixels of 0 to {measure.levels}, binarized ({measure.binarize}); --binarize none keeps greys",
        )
    if binary:
        return "bernoulli", f"the values are {'0 or 1' if measure.binarize == 'fixed' else 'binarized'}"
    if are_counts(stored) and not measure.dequantize and not measure.levels and not measure.scale:
        return "negative-binomial", f"counts of 0 to {high:.0f}; --likelihood normal takes them as real numbers"
    whole = not measure.dequantize and not measure.levels and bool((stored == stored.round()).all())
    return "normal", "whole numbers, taken as real ones; --dequantize gives them a density" if whole else "real numbers"


def scale_of(settings: dict[str, Any], name: str, data: Dataset) -> float | str | None:
    """The scale of a likelihood that has one: asked for, or from the network for tables, one learned for pictures."""
    if name not in SCALED:
        if settings["scale"] is not None:
            raise InputError(f"a {name} likelihood has no scale: leave out --scale, or choose --likelihood normal")
        return None
    if isinstance(settings["scale"], float) and not settings["scale"] > 0:
        raise InputError(f"scale is a standard deviation and must be positive, got {settings['scale']}")
    return settings["scale"] if settings["scale"] is not None else "learned" if data.image_shape else "network"


def vae_of(settings: dict[str, Any], data: Dataset, seed: int, masked: bool = False) -> VAE:
    """A fresh VAE with the settings' parts, its weights drawn from the seed; a `masked` one's guide sees the mask."""
    K = settings["latent_dim"]
    if K < 1:
        raise InputError(f"latent_dim must be one or more, got {K}")
    _check_needs(settings)
    name, _ = choose_likelihood(settings["likelihood"], data)
    with seeded(seed):
        decoder = _network(settings, data, decoded=K)
        likelihood = _likelihood(name, decoder, scale_of(settings, name, data), data)
        guide = _guide(settings, K, lambda outputs: _encoder(settings, data, name, outputs, masked))
        guide = guides.SeesMask(guide) if masked else guide
        return VAE(_prior(settings, K, guide, data.num_features), likelihood, guide)


NEEDS: dict[str, dict[str, tuple[str, ...]]] = {  # setting: (the settings one of which it belongs to)
    "components": {"prior": ("mixture",), "guide": ("mixture",)},
    "pseudo_inputs": {"prior": ("vamp",)},
    "rank": {"guide": ("low-rank",)},
    "flow_layers": {"prior": ("flow",), "guide": ("flow", "iaf")},
    "activation": {"network": ("mlp", "conv", "resnet")},
    "hidden": {"network": ("mlp", "gated-mlp", "conv", "resnet")},
}


def _check_needs(settings: dict[str, Any]) -> None:
    """`InputError` for a setting that would be read and then ignored."""
    for name, owners in NEEDS.items():
        if settings[name] is not None and not any(settings[owner] in values for owner, values in owners.items()):
            words = " or ".join(f"--{owner} {value}" for owner, values in owners.items() for value in values)
            raise InputError(f"--{name.replace('_', '-')} belongs to {words}; leave it out, or choose that")


def _network(
    settings: dict[str, Any], data: Dataset, *, decoded: int = 0, outputs: int = 0, inputs: int = 0
) -> Callable[[int], nn.Module]:
    """The decoder as a function of the numbers it gives for each value, or the encoder as one of its outputs."""
    kind, D = settings["network"], data.num_features
    act = {} if settings["activation"] is None else {"activation": settings["activation"]}
    hidden = tuple(settings["hidden"] or ((32, 64) if kind in ("conv", "resnet") else (500,)))
    if kind in ("conv", "resnet"):
        if data.image_shape is None:
            raise InputError(
                f"--network {kind} is for pictures, and {data.name} is a table; say --image-shape HxW if it is not"
            )
        shape = data.image_shape
        up, down = {"conv": (nets.conv_transpose, nets.conv), "resnet": (nets.resnet_transpose, nets.resnet)}[kind]
        if decoded:
            return lambda maps: up(decoded, *reversed(hidden), image_shape=shape, maps=maps, **act)
        return lambda _: down(shape, *hidden, outputs=outputs, **act)
    dense: Any = {"mlp": nets.mlp, "gated-mlp": nets.gated_mlp, "linear": nets.linear}[kind]
    between = () if kind == "linear" else hidden
    if decoded:
        return lambda maps: dense(decoded, *reversed(between), maps * D, **act)
    return lambda _: dense(inputs, *between, outputs, **act)


def _encoder(settings: dict[str, Any], data: Dataset, likelihood: str, outputs: int, masked: bool) -> nn.Module:
    if masked and settings["network"] in ("conv", "resnet"):
        raise InputError(
            "--missing mask puts a mask beside each row, which conv and resnet do not take; try --network mlp"
        )
    net = _network(settings, data, outputs=outputs, inputs=data.num_features * (1 + masked))(1)
    return nets.log1p(net) if likelihood in ("poisson", "negative-binomial") else net


def _likelihood(name: str, decoder: Callable[[int], nn.Module], scale: float | str | None, data: Dataset) -> nn.Module:
    D, levels = data.num_features, data.train.measure.levels
    if name == "categorical":
        categories = 1 + int(max(known(split.stored).max() for split in (data.train, data.valid, data.test)))
        return likelihoods.Categorical(decoder(categories), max(2, categories))
    net = decoder(2 if scale == "network" else 1)
    width = D if scale == "per-feature" else None
    make: dict[str, Callable[[], nn.Module]] = {
        "bernoulli": lambda: likelihoods.Bernoulli(net),
        "continuous-bernoulli": lambda: likelihoods.ContinuousBernoulli(net),
        "normal": lambda: likelihoods.Normal(net, scale or 1.0, width),
        "student-t": lambda: likelihoods.StudentT(net, scale or 1.0, width),
        "discretized-logistic": lambda: likelihoods.DiscretizedLogistic(net, scale or 1.0, width, levels=levels or 255),
        "poisson": lambda: likelihoods.Poisson(net),
        "negative-binomial": lambda: likelihoods.NegativeBinomial(net, D),
    }
    return make[name]()


def _guide(settings: dict[str, Any], K: int, net: Callable[[int], nn.Module]) -> nn.Module:
    rank, C, layers = (
        default if settings[name] is None else settings[name]
        for name, default in (("rank", min(2, K)), ("components", 4), ("flow_layers", 4))
    )
    kinds: dict[str, Callable[[], nn.Module]] = {
        "mean-field": lambda: guides.MeanFieldNormal(net(guides.MeanFieldNormal.outputs(K))),
        "full-rank": lambda: guides.FullRankNormal(net(guides.FullRankNormal.outputs(K)), K),
        "low-rank": lambda: guides.LowRankNormal(net(guides.LowRankNormal.outputs(K, rank)), K, rank),
        "flow": lambda: guides.FlowGuide(net(guides.FlowGuide.outputs(K)), K, layers),
        "iaf": lambda: guides.FlowGuide(net(guides.FlowGuide.outputs(K)), K, layers, kind="autoregressive"),
        "mixture": lambda: guides.MixtureGuide(net(guides.MixtureGuide.outputs(K, C)), K, C),
    }
    return kinds[settings["guide"]]()


def _prior(settings: dict[str, Any], K: int, guide: nn.Module, num_features: int) -> nn.Module:
    C, pseudo, layers = (
        default if settings[name] is None else settings[name]
        for name, default in (("components", 50), ("pseudo_inputs", 100), ("flow_layers", 4))
    )
    kinds: dict[str, Callable[[], nn.Module]] = {
        "standard-normal": lambda: priors.StandardNormal(K),
        "normal": lambda: priors.Normal([0.0] * K, 1.0, learned=True),
        "laplace": lambda: priors.Laplace([0.0] * K, 0.5**0.5),
        "mixture": lambda: priors.MixtureOfNormals(K, C),
        "vamp": lambda: priors.VampPrior(guide, pseudo, num_features),
        "flow": lambda: priors.FlowPrior(K, layers),
    }
    return kinds[settings["prior"]]()


def few_rows(data: Dataset) -> Batch:
    """Two training rows with all that belongs to them, for a first look at a program."""
    return Batch(data.train[:2], torch.arange(2), num_rows=len(data.train), **data.train.extras(slice(2)))


def loss_of(settings: dict[str, Any], program: Any, batch: Batch) -> ELBO | None:
    """The objective the settings name; None is `fit`'s own, `Trace_ELBO` with their number of particles."""
    name, free_bits, particles = settings["loss"], settings["free_bits"], settings["num_particles"]
    if settings["dreg"] and name != "iwae":
        raise InputError("--dreg is a gradient of the importance-weighted bound: add --loss iwae")
    if free_bits is not None:
        if name != "elbo":
            raise InputError(f"--free-bits is an ELBO of its own: leave out --loss {name}")
        pairs = _latents(program, batch)
        apart = all(factorizes(p, q) for p, q in pairs)
        nats = free_bits if apart else free_bits * max(q.event_shape.numel() for _, q in pairs)
        return FreeBits_ELBO(nats, each="dimension" if apart else "site", num_particles=particles or 1)
    if name == "iwae":
        return ImportanceWeighted_ELBO(8 if particles is None else particles, dreg=settings["dreg"])
    if name == "analytic-elbo":
        for p, q in _latents(program, batch):
            _check_closed_form(p, q)
        return TraceMeanField_ELBO(num_particles=particles or 1)
    return None


def _latents(program: Any, batch: Batch) -> list[tuple[Any, Any]]:
    """Prior and guide of each latent site, as they are on some rows."""
    with torch.no_grad(), seeded(0):
        model, guide = (sample_sites(trace) for trace in traces_of(program, batch))
    return [(model[name]["fn"], site["fn"]) for name, site in guide.items() if name in model]


def _check_closed_form(prior: Any, q: Any) -> None:
    try:
        kl_divergence(q, prior)
    except NotImplementedError as error:
        raise InputError(
            "the KL of this guide to this prior has no closed form: leave out --loss analytic-elbo, or take "
            "--guide mean-field with --prior standard-normal or normal"
        ) from error


def build_of(where: str) -> Callable[[Dataset], Any]:
    """The function that `FILE.py:FUNCTION` names, as one of the data set; it runs the user's own code."""
    name, _, function = where.rpartition(":")
    path = Path(name)
    if not name or not function:
        raise InputError(f"--program {where}: write the file and the function in it, as in my_file.py:build")
    if not path.is_file():
        raise InputError(f"--program {where}: no file {path}")
    spec = spec_from_file_location(f"pyro_vae_program_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--program {where}: {path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise InputError(f"--program {where}: {path} has no function {function}")
    takes_data = bool(inspect.signature(build).parameters)

    def built(data: Dataset) -> Any:
        program = build(data) if takes_data else build()
        if not callable(getattr(program, "model", None)) or not callable(getattr(program, "guide", None)):
            raise InputError(
                f"--program {where}: {function} returned {type(program).__name__}, which has no model and guide; "
                "return a VAE, pyro_vae.Program(model, guide), or any object with both"
            )
        return program

    return built
