"""The parts by name: prior, likelihood, guide and networks, and the VAE they make."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset
from pyro_vae.data.reference_measure import observed_values
from pyro_vae.errors import InputError
from pyro_vae.models.vae import VAE


@dataclass(frozen=True)
class LikelihoodChoice:
    """A likelihood by its name, the scale it gets (None where it has none), and why it was chosen."""

    name: str
    scale: float | str | None
    reason: str


def build_vae(
    settings: dict[str, Any], likelihood: LikelihoodChoice, data: Dataset, seed: int, masked: bool = False
) -> VAE:
    """A new VAE with the parts that the settings name, its weights drawn from the seed.

    `likelihood` is what `choose_likelihood` found; with `masked` the mask of missing values is an input of the guide.
    Raises `InputError` for a setting that no chosen part reads.
    """
    K = settings["latent_dim"]
    if K < 1:
        raise InputError(f"latent_dim must be one or more, got {K}")
    _require_owners(settings)
    with seeded(seed):
        decoder = _network(settings, data, decoded=K)
        part = _likelihood(likelihood.name, decoder, likelihood.scale, data)
        guide = _guide(settings, K, lambda outputs: _encoder(settings, data, likelihood.name, outputs, masked))
        guide = guides.MaskAwareGuide(guide) if masked else guide
        return VAE(_prior(settings, K, guide, data.num_features), part, guide)


OWNERS: dict[str, dict[str, tuple[str, ...]]] = {  # setting: (the settings one of which it belongs to)
    "components": {"prior": ("mixture",), "guide": ("mixture",)},
    "pseudo_inputs": {"prior": ("vamp",)},
    "rank": {"guide": ("low-rank",)},
    "flow_layers": {"prior": ("flow",), "guide": ("flow", "iaf")},
    "activation": {"network": ("mlp", "conv", "resnet")},
    "hidden": {"network": ("mlp", "gated-mlp", "conv", "resnet")},
}


def _require_owners(settings: dict[str, Any]) -> None:
    """`InputError` for a setting that would be read and then ignored."""
    for name, owners in OWNERS.items():
        if settings[name] is not None and not any(settings[owner] in values for owner, values in owners.items()):
            words = " or ".join(f"--{owner} {value}" for owner, values in owners.items() for value in values)
            raise InputError(f"--{name.replace('_', '-')} belongs to {words}; leave it out, or choose that")


def _network(
    settings: dict[str, Any], data: Dataset, *, decoded: int = 0, outputs: int = 0, inputs: int = 0
) -> Callable[[int], nn.Module]:
    """A function that makes the decoder for a number of outputs per value, or the encoder for its outputs."""
    kind, D = settings["network"], data.num_features
    act = {} if settings["activation"] is None else {"activation": settings["activation"]}
    hidden = tuple(settings["hidden"] or ((32, 64) if kind in ("conv", "resnet") else (500,)))
    if kind in ("conv", "resnet"):
        if data.image_shape is None:
            raise InputError(
                f"--network {kind} is for images, and {data.name} is a table; say --image-shape HxW if it is not"
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
            "--missing mask appends a mask to each row, which conv and resnet do not take; try --network mlp"
        )
    net = _network(settings, data, outputs=outputs, inputs=data.num_features * (1 + masked))(1)
    return nets.log1p(net) if likelihood in ("poisson", "negative-binomial") else net


def _likelihood(name: str, decoder: Callable[[int], nn.Module], scale: float | str | None, data: Dataset) -> nn.Module:
    D, levels = data.num_features, data.train.measure.levels
    if name == "categorical":
        categories = 1 + int(max(observed_values(split.stored).max() for split in (data.train, data.valid, data.test)))
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
