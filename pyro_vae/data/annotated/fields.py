"""Which parts of annotated rows are read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fields:
    """Which parts of annotated rows are read.

    Attributes:
        label: the column of labels; None for one that is called label, labels, target or class.
        layer: the layer that holds the rows, `raw` for those of `adata.raw`; None for X.
        needs_label: whether the column of labels has to be there.
    """

    label: str | None = None
    layer: str | None = None
    needs_label: bool = True
