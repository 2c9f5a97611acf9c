"""Rows as frames: what names them in the source, and their codes, reconstructions, draws and scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.columns.column_values import Level
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.data.label_text import label_text
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.diagnostics.anomaly_scores import Scores
from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.programs.encode_rows import encode, reconstruct
from pyro_vae.typing import Program
from pyro_vae.workflows.class_labels import Classifier, predicted_probs
from pyro_vae.workflows.unfinished_scores import KeptLogPx

if TYPE_CHECKING:
    import pandas


def describe_rows(rows: Split, preparation: Preparation) -> "pandas.DataFrame":
    """What names some rows: their ids, their numbers in the source, and their labels, as they were there.

    Args:
        rows: the rows (n).
        preparation: of the data that the program was fitted to.

    Returns:
        The frame (n rows).
    """
    import pandas

    columns: dict[str, object] = dict(rows.ids)
    columns["index"] = rows.source_index(slice(None)).numpy()
    if rows.labels is not None:
        label = preparation.schema.label
        levels = () if label is None else label.levels
        columns["label" if label is None else label.name] = labels_in_words(rows.labels, levels)
    return pandas.DataFrame(columns)


def labels_in_words(labels: Tensor, levels: Sequence[Level]) -> np.ndarray:
    """Labels as they were in the source, None for one that was missing.

    Args:
        labels: the labels (N,).
        levels: what labels 0, 1, … were; empty for labels that are numbers, kept as they are.

    Returns:
        The labels (N,).
    """
    known = labels.tolist()
    if not levels and min(known, default=0) >= 0:
        return labels.cpu().numpy()
    return np.array([None if label < 0 else levels[label] if levels else label for label in known], dtype=object)


def latent_frame(program: Program, rows: Split) -> "pandas.DataFrame":
    """The posterior means of some rows, z1, z2, ….

    Args:
        program: the program.
        rows: the rows (n).

    Returns:
        The frame (n rows, K columns).
    """
    return _numbered(encode(program, rows.x, **rows.row_inputs(slice(None))), "z")


def code_frame(program: Program, rows: Split, preparation: Preparation) -> "pandas.DataFrame":
    """The posterior means of some rows; of a program that predicts labels, the predicted one and all probabilities too.

    Args:
        program: the program.
        rows: the rows (n).
        preparation: of the data that the program was fitted to.

    Returns:
        The frame (n rows): z1, z2, …, and where labels are predicted `predicted_LABEL` and `probability_LEVEL`, ….
    """
    frame = latent_frame(program, rows)
    if not isinstance(program, Classifier):
        return frame
    probs, levels, label = predicted_probs(program, rows), preparation.label_levels, preparation.schema.label
    name = "label" if label is None else label.name
    frame[f"predicted_{name}"] = labels_in_words(probs.argmax(-1), levels)
    for code, values in enumerate(probs.T.numpy()):
        frame[f"probability_{label_text(code, levels)}"] = values
    return frame


def reconstruction_frame(program: Program, rows: Split, preparation: Preparation) -> "pandas.DataFrame":
    """E[x | z] at the posterior mean of some rows, with the names and units of the data; of categories the likeliest.

    Args:
        program: the program.
        rows: the rows (n).
        preparation: of the data that the program was fitted to.

    Returns:
        The frame (n rows).
    """
    means = reconstruct(program, rows.x, **rows.row_inputs(slice(None)))
    return values_frame(means, preparation, rounded=False, given=rows.inputs.get(GIVEN))


def values_frame(x: Tensor, preparation: Preparation, rounded: bool, given: Tensor | None = None) -> "pandas.DataFrame":
    """Values of x with the names, types and units of the data; numbered where a model observes something else.

    Args:
        x: the values (n, D).
        preparation: of the data that the program was fitted to.
        rounded: whether numbers become whole where the column's are.
        given: the conditions that they were drawn at, (n, C), which come back too.

    Returns:
        The frame (n rows).
    """
    if x.shape[1] != preparation.num_features:
        return _numbered(x, "x")
    return preparation.to_frame(x, rounded, given)


def _numbered(values: Tensor, letter: str) -> "pandas.DataFrame":
    import pandas

    array = values.detach().cpu().numpy()
    return pandas.DataFrame(array, columns=[f"{letter}{i + 1}" for i in range(array.shape[1])])


def score_frame(scores: Scores) -> "pandas.DataFrame":
    """log p(x), k-hat, percentile and flag of each row; the cells of a row that has no number are missing.

    Args:
        scores: the scores (n rows).

    Returns:
        The frame (n rows).
    """
    import pandas

    found, anomaly = scores.found, scores.anomaly.numpy().astype(int)
    if not found.has_number.all():
        anomaly = anomaly.astype(object)
        anomaly[~found.has_number.numpy()] = None
    return pandas.DataFrame(
        {
            "log_px": found.log_px.numpy(),
            "khat": found.khat.numpy() if isinstance(found, (Evidence, KeptLogPx)) else np.full(len(found), np.nan),
            "percentile": scores.percentile.numpy(),
            "anomaly": anomaly,
        }
    )
