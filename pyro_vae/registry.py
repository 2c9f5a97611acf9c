"""The parts by name, one entry each: priors, likelihoods, guides and networks, and the settings that choose them.

Plain data: a class is imported when it is used. The choices and help of the command line, the check that an option
belongs to a chosen part, `build_vae` and the docs' table come from here, so that a new part is one class and one entry.
Other packages add entries by the entry points `pyro_vae.priors`, `pyro_vae.likelihoods`, `pyro_vae.guides` and
`pyro_vae.networks`; a program adds them by `PRIORS.register(Entry(…))`.

>>> from pyro_vae.registry import PRIORS
>>> PRIORS["mixture"].path
'pyro_vae.priors:MixtureOfNormals'
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pyro_vae.errors import InputError
from pyro_vae.option_registry import Entry, Registry, check_owned
from pyro_vae.options import Option, Value, options_of, setting

MODEL = "Model"


def _option(name: str, type: type | str, default: Value, help: str, **more: Any) -> Option:
    return Option(name, type, default, help, group=MODEL, **more)


@dataclass(frozen=True)
class LikelihoodEntry(Entry):
    """A likelihood: `values` are those that it has a density or mass for; `encoder` transforms the encoder's x."""

    values: Literal["bits", "unit interval", "grey levels", "reals", "counts", "columns"] = "reals"
    encoder: Literal["", "log1p", "columns"] = ""


@dataclass(frozen=True)
class NetworkEntry(Entry):
    """A network: `path` makes the encoder, `decoder` the decoder; `for_images` ones take the image's shape."""

    decoder: str = ""
    for_images: bool = False


def _components(default: int) -> Option:
    return _option("components", int, default, "Components of a mixture.", minimum=1)


FLOW_LAYERS = _option("flow_layers", int, 4, "Layers of a flow, in the prior or the guide.", minimum=1)
SCALE = _option(
    "scale",
    "scale",
    None,
    "Standard deviation of a normal, student-t or discretized-logistic likelihood, not of a prior, in the units of the "
    "model's x: a number, or learned (one for all), per-feature (one for each column), or network (an output of the "
    "decoder).",
)


def _hidden(*default: int) -> Option:
    return _option(
        "hidden",
        "widths",
        default,
        "Hidden layers of the encoder, mirrored by the decoder; for conv and resnet their channels.",
        metavar="WIDTH[,WIDTH]",
    )


def _activation(default: str) -> Option:
    names = ("tanh", "relu", "softplus", "elu", "gelu", "silu")
    return _option("activation", str, default, "Nonlinearity of the hidden layers.", choices=names)


# fmt: off
PRIORS = Registry("prior", [
    Entry("standard-normal", "pyro_vae.priors:StandardNormal"),
    Entry("normal", "pyro_vae.priors:Normal.standard", "learned mean and scales"),
    Entry("laplace", "pyro_vae.priors:Laplace.standard"),
    Entry("mixture", "pyro_vae.priors:MixtureOfNormals", "",
          (_components(50),), {"components": "num_components"}),
    Entry("vamp", "pyro_vae.priors:VampPrior", "a mixture of the guide at pseudo-inputs",
          (_option("pseudo_inputs", int, 100, "Pseudo-inputs of a VampPrior.", minimum=1),),
          {"pseudo_inputs": "num_pseudo"}),
    Entry("flow", "pyro_vae.priors:FlowPrior", "", (FLOW_LAYERS,), {"flow_layers": "layers"}),
], "pyro_vae.priors")

LIKELIHOODS = Registry("likelihood", [
    LikelihoodEntry("bernoulli", "pyro_vae.likelihoods:Bernoulli", values="bits"),
    LikelihoodEntry("continuous-bernoulli", "pyro_vae.likelihoods:ContinuousBernoulli", values="unit interval"),
    LikelihoodEntry("normal", "pyro_vae.likelihoods:Normal", options=(SCALE,)),
    LikelihoodEntry("multivariate-normal", "pyro_vae.likelihoods:MultivariateNormal",
                    "one correlation of the residuals of all columns"),
    LikelihoodEntry("student-t", "pyro_vae.likelihoods:StudentT", options=(SCALE,)),
    LikelihoodEntry("discretized-logistic", "pyro_vae.likelihoods:DiscretizedLogistic", options=(SCALE,),
                    values="grey levels"),
    LikelihoodEntry("categorical", "pyro_vae.likelihoods:Categorical", values="counts"),
    LikelihoodEntry("poisson", "pyro_vae.likelihoods:Poisson", values="counts", encoder="log1p"),
    LikelihoodEntry("negative-binomial", "pyro_vae.likelihoods:NegativeBinomial", values="counts", encoder="log1p"),
    LikelihoodEntry("columns", "pyro_vae.likelihoods:Columns", "each column by its kind", values="columns",
                    encoder="columns"),
], "pyro_vae.likelihoods")

GUIDES = Registry("guide", [
    Entry("mean-field", "pyro_vae.guides:MeanFieldNormal"),
    Entry("full-rank", "pyro_vae.guides:FullRankNormal"),
    Entry("low-rank", "pyro_vae.guides:LowRankNormal", "", (
        _option("rank", int, None, "Rank of a low-rank guide's covariance factor (2, at most K).", minimum=1),)),
    Entry("flow", "pyro_vae.guides:FlowGuide", "spline couplings", (FLOW_LAYERS,), {"flow_layers": "layers"}),
    Entry("iaf", "pyro_vae.guides:FlowGuide", "inverse autoregressive", (FLOW_LAYERS,), {"flow_layers": "layers"},
          {"kind": "autoregressive"}),
    Entry("mixture", "pyro_vae.guides:MixtureGuide", "", (_components(4),), {"components": "num_components"}),
], "pyro_vae.guides")

NETWORKS = Registry("network", [
    NetworkEntry("mlp", "pyro_vae.nets:mlp", options=(_hidden(500), _activation("tanh")), decoder="pyro_vae.nets:mlp"),
    NetworkEntry("gated-mlp", "pyro_vae.nets:gated_mlp", options=(_hidden(500),), decoder="pyro_vae.nets:gated_mlp"),
    NetworkEntry("conv", "pyro_vae.nets:conv", "for images", (_hidden(32, 64), _activation("relu")),
                 decoder="pyro_vae.nets:conv_transpose", for_images=True),
    NetworkEntry("resnet", "pyro_vae.nets:resnet", "for images", (_hidden(32, 64), _activation("elu")),
                 decoder="pyro_vae.nets:resnet_transpose", for_images=True),
    NetworkEntry("linear", "pyro_vae.nets:linear", decoder="pyro_vae.nets:linear"),
], "pyro_vae.networks")
# fmt: on
KINDS: dict[str, Registry[Any]] = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES, "network": NETWORKS}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The settings of a VAE: its latents, the names of its parts, and in `options` the settings that these own.

    Raises `InputError` for a value that cannot be used, and for an option that no chosen part owns.

    >>> ModelConfig(prior="mixture", options={"components": 10}).options
    {'components': 10}
    >>> ModelConfig(options={"components": 10})
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: --components belongs to --prior mixture or --guide mixture; leave it out, or choose that
    """

    latent_dim: int = setting(
        2,
        int,
        "Dimensions K of the latent z; of tables with four columns or more by default as many as columns, at most 8.",
        minimum=1,
        group=MODEL,
    )
    prior: str = setting(
        "standard-normal",
        str,
        "p(z); of tables with four columns or more by default a mixture.",
        choices=PRIORS,
        group=MODEL,
    )
    likelihood: str = setting(
        "auto", str, "p(x|z); auto chooses by the values of the data and says why.", choices=LIKELIHOODS, group=MODEL
    )
    guide: str = setting("mean-field", str, "q(z|x)", choices=GUIDES, group=MODEL)
    network: str = setting("mlp", str, "Encoder and decoder networks", choices=NETWORKS, group=MODEL)
    semi_supervised: bool = setting(
        False,
        bool,
        "Model x and its label, which is known for some rows and summed out elsewhere (Kingma et al., 2014, M2).",
        is_flag=True,
        group=MODEL,
    )
    classification_weight: float = setting(
        1.0,
        float,
        "Weight of the mean log q(label | x) of labelled rows beside the ELBO, in a semi-supervised fit: α = this · "
        "N / N labelled, for which the paper has 0.1.",
        minimum=0,
        group=MODEL,
    )
    labelled_share: float = setting(
        1.0,
        float,
        "Share of the known training labels that a semi-supervised fit sees, at random by the seed: for experiments.",
        minimum=0,
        exclusive=True,
        maximum=1,
        group=MODEL,
    )
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            if (name, getattr(self, name)) != ("likelihood", "auto"):
                object.__setattr__(self, name, option.check(getattr(self, name)))
        self._check_semi_supervised()
        given = {name: value for name, value in self.options.items() if (name, self.likelihood) != ("scale", "auto")}
        check_owned(given, self.parts(), KINDS)

    def _check_semi_supervised(self) -> None:
        options = options_of(type(self))
        for name in ("classification_weight", "labelled_share"):
            if not self.semi_supervised and getattr(self, name) != options[name].default:
                raise InputError(f"{options[name].flag} belongs to --semi-supervised; leave it out, or choose that")

    def parts(self) -> dict[str, Entry]:
        """The chosen entry of each kind of part; a likelihood that is still to be chosen is left out."""
        names = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: KINDS[kind][name] for kind, name in names.items() if name != "auto"}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Value]) -> "ModelConfig":
        """The model that flat settings describe: those of its fields, and the others as options."""
        names = [each.name for each in fields(cls) if each.name != "options"]
        given: dict[str, Any] = {name: settings[name] for name in names if name in settings}
        others = {name: value for name, value in settings.items() if name not in names and value is not None}
        return cls(**given, options=others)


def load_other_packages() -> None:
    """Import the parts that other packages have registered, so that a saved run may name them."""
    for registry in KINDS.values():
        for entry in registry.values():
            paths = [entry.path, entry.decoder] if isinstance(entry, NetworkEntry) else [entry.path]
            for path in paths:
                if not path.startswith("pyro_vae."):
                    with suppress(ImportError):  # of a part that the saved run may not have
                        Entry(entry.name, path).load()


def model_options() -> dict[str, Option]:
    """Every model option of the command line: each kind of part, followed by the options that its entries own.

    An option of several entries is one: its help says each default, and the default here is None.
    """
    found: dict[str, Option] = {}
    for name, option in options_of(ModelConfig).items():
        found[name] = _with_described_choices(option, KINDS[name]) if name in KINDS else option
        for own, defaults in (KINDS[name].owned_options() if name in KINDS else {}).items():
            if own not in found:
                found[own] = replace(defaults[0][1], default=None, help=_help_with_defaults(own))
    return found


def _with_described_choices(option: Option, registry: Registry[Any]) -> Option:
    described = [f"{entry.name}: {entry.help}" for entry in registry.values() if entry.help]
    if option.name == "likelihood":
        return replace(option, choices=("auto", *registry))
    if option.name == "network":
        images = " and ".join(entry.name for entry in registry.values() if entry.for_images)
        return replace(option, help=f"{option.help}; {images} for images.")
    return replace(option, help="; ".join([option.help.rstrip("."), *described]) + ".")


def _help_with_defaults(name: str) -> str:
    """The help of an option, and its default for each entry that owns it."""
    owners = [
        (kind, entry, option) for kind, all_ in KINDS.items() for entry, option in all_.owned_options().get(name, [])
    ]
    words, kinds = owners[0][2].help, {kind for kind, _, _ in owners}
    by_default: dict[Value, list[str]] = {}
    for kind, entry, option in owners:
        by_default.setdefault(option.default, []).append(f"{kind} {entry}" if len(kinds) > 1 else entry)
    if list(by_default) == [None]:
        return words
    groups = [(owners, _as_text(value)) for value, owners in by_default.items()]
    if len(groups) == 1:
        return f"{words.rstrip('.')} ({groups[0][1]})."
    return words.rstrip(".") + " (" + "; ".join(f"{', '.join(names)}: {text}" for names, text in groups) + ")."


def _as_text(value: Value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
