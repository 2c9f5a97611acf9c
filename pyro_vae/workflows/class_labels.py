"""The labels of a semi-supervised run: which classes there are, which labels the fit sees, how many are predicted."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.data.table import NO_LABEL
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.objectives_by_name import ObjectiveConfig
from pyro_vae.registry import ModelConfig
from pyro_vae.typing import Rows

MAX_CLASSES = 1000  # that are summed out for each row
PREDICTED_ROWS = 5000  # in one call


@runtime_checkable
class Classifier(Protocol):
    """A program that predicts the label of a row."""

    def predict_proba(self, x: Rows, **row_inputs: object) -> Tensor:
        """The probability of each class, (N, C)."""


def num_classes(data: Dataset) -> int:
    """How many classes the labels have: of text its levels, of whole numbers 0, 1, … to the largest of all splits.

    Args:
        data: the data set.

    Returns:
        The number C of classes; `InputError` where there are no labels, of one class only, or too many.
    """
    labels = [split.labels for split in (data.train, data.valid, data.test) if split.labels is not None]
    if not labels:
        raise InputError(
            f"{data.name}: --semi-supervised needs labels, and these rows have none: name their column (--label NAME), "
            "with empty cells where a label is missing"
        )
    known = labels[0][labels[0] >= 0].unique()
    if len(known) < 2:
        raise InputError(
            f"{data.name}: --semi-supervised needs labels of two classes or more, and the training rows have those of "
            f"{len(known)}; an empty cell, or −1, is a missing label: write classes as text, or as 0, 1, …"
        )
    number = len(data.label_levels) or 1 + int(max(each.max() for each in labels))
    if number > MAX_CLASSES:
        raise InputError(
            f"{data.name}: labels up to {number - 1} would be {number} classes, at most {MAX_CLASSES} are summed "
            "out: write the classes as text, or name another column (--label NAME)"
        )
    return number


def require_elbo(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """`InputError` for a semi-supervised fit with another objective than the ELBO.

    Args:
        model: the settings of the model.
        objective: those of the objective.
    """
    if model.semi_supervised and (objective.loss != "elbo" or objective.options.get("free_bits") is not None):
        raise InputError("--semi-supervised sums the label out of the ELBO: leave --loss and --free-bits out")


def training_labels(config: ModelConfig, data: Dataset, seed: int) -> Tensor | None:
    """The labels that a semi-supervised fit sees: all that are known, or a share of them.

    Args:
        config: the settings of the model.
        data: the data set.
        seed: of the labels that are kept.

    Returns:
        Labels (N,) of the training rows, −1 for one that is missing; None for a model that takes none.
    """
    labels = data.train.labels
    if not config.semi_supervised or labels is None:
        return None
    known = (labels >= 0).nonzero()[:, 0]
    kept = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    kept = kept[: max(1, round(config.labelled_share * len(known)))]
    if len(kept) == len(known):
        return labels
    if len(labels[kept].unique()) < 2:
        raise InputError(
            f"--labelled-share {config.labelled_share:g} leaves {len(kept)} labels, of one class: take a larger share"
        )
    return torch.full_like(labels, NO_LABEL).index_copy(0, kept, labels[kept])


def describe_labels(labels: Tensor, config: ModelConfig, num_labels: int) -> str:
    """A line on the classes, how many labels are known, and the weight of the classification.

    Args:
        labels: the labels (N,) that the fit sees.
        config: the settings of the model.
        num_labels: the number C of classes.

    Returns:
        The line.
    """
    num_known = int((labels >= 0).sum())
    alpha = config.classification_weight * len(labels) / num_known
    rest = "; the others are summed out" if num_known < len(labels) else ": no label is missing, a supervised fit"
    return (
        f"semi-supervised: {num_labels} classes, {num_known} of {len(labels)} training labels known{rest}; "
        f"each known one weighs α = {alpha:.3g} in log q(label | x)"
    )


def predicted_probs(program: Classifier, rows: Split) -> Tensor:
    """The probability of each class of some rows, in chunks.

    Args:
        program: a program that predicts labels.
        rows: the rows (N).

    Returns:
        Probabilities (N, C).
    """
    chunks = rows.chunks(PREDICTED_ROWS)
    return torch.cat([program.predict_proba(part.x, **part.row_inputs(slice(None))).cpu() for part in chunks])


def accuracy(program: object, rows: Split) -> float | None:
    """The share of the rows with a known label whose most probable class it is, weighted as the rows are.

    Args:
        program: any program.
        rows: the rows (N).

    Returns:
        The share; None where the program predicts no label, or none is known.
    """
    if not isinstance(program, Classifier) or rows.labels is None or not bool((rows.labels >= 0).any()):
        return None
    known = rows.take((rows.labels >= 0).nonzero()[:, 0])
    assert known.labels is not None
    return weighted_mean((predicted_probs(program, known).argmax(-1) == known.labels).double(), known.weights)
