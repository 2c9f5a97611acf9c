"""A VAE from the names of its parts."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from torch import nn

from pyro_vae.allocation_limit import limit_allocation
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.infer_measure import observed_values
from pyro_vae.errors import InputError
from pyro_vae.guides import CategoricalGuide, MaskAwareGuide
from pyro_vae.likelihoods.columns import Columns
from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.models.semi_supervised_vae import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.nets import AppendedInputs, ColumnEncoder, log1p, mlp
from pyro_vae.option_registry import Entry
from pyro_vae.options import Value
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.registry import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, ModelConfig, NetworkEntry
from pyro_vae.resource_limits import free_memory
from pyro_vae.workflows.choose_likelihood import LikelihoodChoice
from pyro_vae.workflows.class_labels import num_classes

IMAGE_FEATURES = 128  # of an image, to which a label is appended
COPIES = 4  # of the weights in a fit: the best ones, gradients, and two moments
TOO_LARGE = "the program has more weights than memory holds; give fewer latents, hidden units, layers or components"
T = TypeVar("T")
MakeNetwork = Callable[[int], nn.Module]  # from the number of outputs (of each value, for a decoder)


def build_vae(config: ModelConfig, likelihood: LikelihoodChoice, data: Dataset, seed: int, masked: bool = False) -> VAE:
    """A new VAE with the parts that a configuration names, its weights drawn from the seed; conditional where data are.

    Args:
        config: the names of the parts and their settings.
        likelihood: what `choose_likelihood` found.
        data: the data set, for the number of columns, grey levels or categories.
        seed: the seed of the initial weights.
        masked: whether the mask of missing values is an input of the guide.

    Returns:
        The VAE; `InputError` where parts and data do not go together.
    """
    conditions = data.schema.conditions
    if config.semi_supervised and conditions:
        raise InputError("--semi-supervised infers labels, and --given takes columns as known: leave one of both out")
    num_labels = num_classes(data) if config.semi_supervised else 0
    num_more = num_labels + ConditionalVAE.num_inputs(conditions)
    with seeded(seed), limit_allocation(free_memory() / COPIES, TOO_LARGE):
        part = _likelihood(likelihood, _decoder(config, data, num_more - len(data.schema.exposures)), data)
        encoder = partial(_encoder, config, data, likelihood.name, masked)
        guide = _guide(config, partial(encoder, num_more))
        guide = MaskAwareGuide(guide) if masked else guide
        context = {"num_latents": config.latent_dim, "guide": guide, "num_features": data.num_features + num_more}
        prior = _make(PRIORS[config.prior], config.options, context)
        if conditions:
            return ConditionalVAE(prior, part, guide, conditions=conditions)
        if not num_labels:
            return VAE(prior, part, guide)
        classifier: nn.Module = CategoricalGuide(encoder(0, num_labels))
        classifier = MaskAwareGuide(classifier) if masked else classifier
        return SemiSupervisedVAE(prior, part, guide, classifier, num_labels, config.classification_weight)


def _make(entry: Entry, settings: Mapping[str, Value], context: Mapping[str, object]) -> nn.Module:
    """The part of an entry: by its options and, of the context, the arguments that its constructor has."""
    factory = entry.load()
    made: nn.Module = factory(**_accepted(factory, context), **entry.keywords(settings))
    return made


def _accepted(factory: Callable[..., object], given: Mapping[str, T]) -> dict[str, T]:
    names = inspect.signature(factory).parameters
    return {name: value for name, value in given.items() if name in names}


def _network(config: ModelConfig, data: Dataset) -> tuple[NetworkEntry, tuple[int, ...], dict[str, Value]]:
    """The chosen network, its hidden sizes, and its other options."""
    entry = NETWORKS[config.network]
    if entry.for_images and data.image_shape is None:
        raise InputError(
            f"--network {entry.name} is for images, and {data.name} is a table; say --image-shape HxW, in colour "
            "3xHxW, if it is not"
        )
    options = entry.keywords(config.options)
    hidden = options.pop("hidden", ())
    assert isinstance(hidden, (tuple, list))
    return entry, tuple(int(width) for width in hidden), options


def _decoder(config: ModelConfig, data: Dataset, num_more: int) -> MakeNetwork:
    entry, hidden, options = _network(config, data)
    make, inputs = Entry(entry.name, entry.decoder).load(), config.latent_dim + num_more
    if entry.for_images:
        shape = data.image_shape
        return lambda maps: make(inputs, *reversed(hidden), image_shape=shape, maps=maps, **options)
    width = 1 if data.schema.coding == "columns" else data.num_features  # whose outputs are counted by their kinds
    return lambda maps: make(inputs, *reversed(hidden), maps * width, **options)


def _encoder(
    config: ModelConfig, data: Dataset, likelihood: str, masked: bool, num_more: int, outputs: int
) -> nn.Module:
    """The network of a guide: of x, its mask if there is one, and a label's indicator or conditions, `num_more`."""
    entry, hidden, options = _network(config, data)
    if masked and entry.for_images:
        raise InputError(
            "--missing mask appends a mask to each row, which conv and resnet do not take; try --network mlp"
        )
    make, kind, schema = entry.load(), LIKELIHOODS[likelihood].encoder, data.schema
    if kind == "log1p" and data.schema.conditions:  # which may be negative, and have no log(1 + y)
        kind, schema = "columns", Schema([Column(f"x{i + 1}", "count") for i in range(data.num_features)])
    if kind == "columns":
        inputs = ColumnEncoder.num_inputs(schema, masked) + num_more
        return ColumnEncoder(make(inputs, *hidden, outputs, **options), schema, masked, num_more)
    if entry.for_images:
        net: nn.Module = make(data.image_shape, *hidden, outputs=IMAGE_FEATURES if num_more else outputs, **options)
    else:
        net = make((data.num_features + num_more) * (1 + masked), *hidden, outputs, **options)
    if entry.for_images and num_more:
        net = AppendedInputs(net, mlp(IMAGE_FEATURES + num_more, outputs), data.num_features)
    return log1p(net) if kind == "log1p" else net


def _likelihood(choice: LikelihoodChoice, decoder: MakeNetwork, data: Dataset) -> nn.Module:
    """The likelihood on a decoder; the number of columns goes to one that needs it."""
    entry = LIKELIHOODS[choice.name]
    factory = entry.load()
    parameters = inspect.signature(factory).parameters
    if entry.values == "columns":
        return _column_likelihood(choice, decoder, data)
    known: dict[str, Value] = {"levels": data.train.measure.levels or 255}
    if "num_categories" in parameters:
        splits = (data.train, data.valid, data.test)
        known["num_categories"] = max(2, 1 + int(max(observed_values(split.stored).max() for split in splits)))
    has_default = "num_features" in parameters and parameters["num_features"].default is not inspect.Parameter.empty
    if choice.scale == "per-feature" or not has_default:
        known["num_features"] = data.num_features
    options = {} if choice.scale is None else {"scale": choice.scale}
    keywords = _accepted(factory, known) | entry.keywords(options)
    outputs = getattr(factory, "outputs_per_value", LikelihoodModule.outputs_per_value)
    return _make(entry, options, _accepted(factory, known) | {"net": decoder(outputs(**_accepted(outputs, keywords)))})


def _column_likelihood(choice: LikelihoodChoice, decoder: MakeNetwork, data: Dataset) -> nn.Module:
    if choice.schema is None:
        raise InputError(
            f"{data.name}: --likelihood {choice.name} is for tables whose columns have kinds: a file of columns, or a "
            "data frame, with --coding columns"
        )
    return Columns(decoder(Columns.num_outputs(choice.schema)), choice.schema)


def _guide(config: ModelConfig, encoder: MakeNetwork) -> nn.Module:
    """The guide on an encoder with as many outputs as it needs."""
    entry = GUIDES[config.guide]
    outputs = getattr(entry.load(), "outputs", None)
    if outputs is None:
        raise InputError(f"the guide {entry.name} needs a static method outputs(num_latents, …), its network's outputs")
    keywords = {"num_latents": config.latent_dim} | entry.keywords(config.options)
    net = encoder(outputs(**_accepted(outputs, keywords)))
    return _make(entry, config.options, {"net": net, "num_latents": config.latent_dim})
