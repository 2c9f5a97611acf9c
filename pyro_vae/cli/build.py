"""From settings to objects: the data set, the likelihood that suits it, the VAE, its objective, a run's folder."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import guides, likelihoods, nets, priors, runs
from pyro_vae.data import NAMED, Dataset, Measure, Split, load_data
from pyro_vae.data.files import Table, read_file
from pyro_vae.data.load import are_counts, known
from pyro_vae.errors import InputError
from pyro_vae.inference.elbos import FreeBits_ELBO, ImportanceWeighted_ELBO, factorizes
from pyro_vae.models.rows import seeded
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
    rank, C, layers = settings["rank"] or 2, settings["components"] or 4, settings["flow_layers"] or 4
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
    kinds: dict[str, Callable[[], nn.Module]] = {
        "standard-normal": lambda: priors.StandardNormal(K),
        "normal": lambda: priors.Normal([0.0] * K, 1.0, learned=True),
        "laplace": lambda: priors.Laplace([0.0] * K, 0.5**0.5),
        "mixture": lambda: priors.MixtureOfNormals(K, settings["components"] or 50),
        "vamp": lambda: priors.VampPrior(guide, settings["pseudo_inputs"] or 100, num_features),
        "flow": lambda: priors.FlowPrior(K, settings["flow_layers"] or 4),
    }
    return kinds[settings["prior"]]()


def loss_of(settings: dict[str, Any], program: Any, x: Tensor) -> ELBO | None:
    """The objective the settings name; None is `fit`'s own, `Trace_ELBO` with their number of particles."""
    name, free_bits, particles = settings["loss"], settings["free_bits"], settings["num_particles"]
    if settings["dreg"] and name != "iwae":
        raise InputError("--dreg is a gradient of the importance-weighted bound: add --loss iwae")
    if free_bits is not None:
        if name != "elbo":
            raise InputError(f"--free-bits is an ELBO of its own: leave out --loss {name}")
        if not isinstance(program, VAE):
            return FreeBits_ELBO(free_bits, num_particles=particles or 1)
        prior, q = program.prior(), program.posterior(x)
        apart = factorizes(prior, q)
        nats = free_bits if apart else free_bits * prior.event_shape.numel()
        return FreeBits_ELBO(nats, each="dimension" if apart else "site", num_particles=particles or 1)
    if name == "iwae":
        return ImportanceWeighted_ELBO(8 if particles is None else particles, dreg=settings["dreg"])
    if name == "analytic-elbo":
        if isinstance(program, VAE):
            _check_closed_form(program.prior(), program.posterior(x))
        return TraceMeanField_ELBO(num_particles=particles or 1)
    return None


def _check_closed_form(prior: Any, q: Any) -> None:
    try:
        kl_divergence(q, prior.expand(q.batch_shape))
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


class Run:
    """A run's folder, opened: its settings, its program, and its data when asked for."""

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder, self.build = folder, program
        self.config = runs.read_config(folder)
        if "about" not in self.config or "measure" not in self.config:
            raise InputError(
                f"{folder} was saved from Python and says nothing of data; load it there: pv.load({str(folder)!r})"
            )
        self.measure = Measure.from_plain(self.config["measure"])
        self.about = self.config["about"]
        if not (folder / runs.WEIGHTS).exists():
            raise InputError(f"{folder}: this run has no weights yet; finish it with pyro-vae fit --resume {folder}")

    def program(self) -> Any:
        """The run's program; `InputError` where it is the user's own and `--program` does not say how to build it."""
        if self.build is not None:
            build = build_of(self.build)
            return runs.load(self.folder, build=lambda: build(self.data()))
        if "program" not in self.config:
            own = self.about.get("program", "FILE.py:FUNCTION")
            raise InputError(
                f"{self.folder} holds a program of your own, which no file may name for you: add --program {own}"
            )
        return runs.load(self.folder)

    def data(self) -> Dataset:
        """The data set the run was fitted to; `InputError` where it is gone or has changed."""
        try:
            data = data_of(absent_as_none(self.config["data"]), self.config["model"]["likelihood"])
        except InputError as error:
            raise InputError(f"{self.folder}: the data this run was fitted to cannot be read: {error}") from error
        if data.fingerprint != self.about["fingerprint"]:
            raise InputError(
                f"{self.folder}: the data {data.name} is not what it was when this run was fitted; fit again, or bring "
                "the old data back"
            )
        return data

    def rows(self, name: str | None, split: str) -> tuple[Split, list[int]]:
        """Rows to work on and their places where they were read.

        A file's rows keep its order, under this run's measure; without a name it is a split of the run's own data, and
        a data set's name stands for a split of that.
        """
        if name is None or name in NAMED:
            settings = absent_as_none(self.config["data"])
            data = (
                self.data()
                if name is None
                else load_data(name, binarize=settings["binarize"], root=settings["data_root"])
            )
            found = data.split(split)
            self._check_width(found.shape[1], data.name)
            places = torch.arange(len(found)) if found.index is None else found.index
            return Split(split, found.stored, self.measure, found.labels, found.image_shape), places.tolist()
        table = self._in_order(read_file(Path(name), self.config["data"].get("missing") == "mask"), name)
        self._check_width(table.values.shape[1], name)
        self._check_levels(table.values, name)
        return Split("given", table.values, self.measure, table.labels), list(range(len(table.values)))

    def columns(self) -> list[str]:
        """The names of x's columns, made up where the data had none."""
        return list(self.about.get("columns", ())) or [f"x{i + 1}" for i in range(self.about["num_features"])]

    def _in_order(self, table: Table, name: str) -> Table:
        """The table with its columns in the order this run was fitted to, where both know their names."""
        expected = tuple(self.about.get("columns", ()))
        if not expected or not table.columns or table.columns == expected:
            return table
        if missing := [column for column in expected if column not in table.columns]:
            raise InputError(f"{name}: no column {', '.join(missing)}; this run was fitted to {', '.join(expected)}")
        order = [table.columns.index(column) for column in expected]
        return replace(table, values=table.values[:, order], columns=expected)

    def _check_levels(self, values: Tensor, name: str) -> None:
        values = known(values)
        levels, highest = self.measure.levels, float(values.max())
        as_shares = levels is not None and levels > 1 and values.is_floating_point() and highest <= 1
        if levels is not None and (highest > levels or as_shares or float(values.min()) < 0):
            raise InputError(
                f"{name}: values from {float(values.min()):g} to {highest:g}, but this run was fitted to pictures of 0 "
                "to "
                f"{levels}; bring them to that range"
            )

    def _check_width(self, found: int, name: str) -> None:
        expected = self.about["num_features"]
        if found != expected:
            raise InputError(
                f"{name}: {found} columns, but this run was fitted to rows of {expected}; give rows of the same kind"
            )


def absent_as_none(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("data", "data_root", "binarize", "dequantize", "standardize", "missing", "image_shape")
    shape = settings.get("image_shape")
    return {name: settings.get(name) for name in names} | {
        "dequantize": bool(settings.get("dequantize")),
        "missing": settings.get("missing", "refuse"),
        "image_shape": None if shape is None else (int(shape[0]), int(shape[1])),
    }


def write_rows(
    path: Path, rows: Tensor, names: list[str], index: list[int] | None = None, labels: Tensor | None = None
) -> None:
    """Rows to a `.npy` array or a `.csv` table with an index and, where known, labels."""
    import io

    import numpy as np
    import pandas

    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rows.numpy(), allow_pickle=False)
        runs.write_whole(path, buffer.getvalue())
    elif path.suffix == ".csv":
        frame = pandas.DataFrame(rows.numpy(), columns=names)
        if labels is not None:
            frame.insert(0, "label", labels.numpy())
        if index is not None:
            frame.insert(0, "index", index)
        runs.write_whole(path, frame.to_csv(index=False).encode())
    else:
        raise InputError(f"{path}: can write .npy or .csv, not {path.suffix or 'a file without an ending'}")
