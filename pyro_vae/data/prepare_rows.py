"""New rows prepared as those that a program was fitted to: its columns in their order, its measure, its labels."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from pyro_vae.data.annotated.annotated_rows import ANNOTATED_SUFFIXES, AnnotatedRows
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_range import unknown_values
from pyro_vae.data.columns.conditions import GIVEN, Value, given_codes, original_codes, require_conditions, standardized
from pyro_vae.data.columns.infer_columns import LABEL_COLUMNS
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.frame_tables import frame_by_schema
from pyro_vae.data.frames import Frame
from pyro_vae.data.image_settings import AS_THEY_ARE, ImageSettings
from pyro_vae.data.image_shapes import ImageShape, describe_shape, is_colour
from pyro_vae.data.infer_measure import observed_values
from pyro_vae.data.load_tables import Source
from pyro_vae.data.ondisk.column_statistics import validate_rows
from pyro_vae.data.ondisk.read_large_files import read_rows
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.read_files import read_memory
from pyro_vae.data.reference_measure import Measure
from pyro_vae.data.sparse.read_sparse import keep_or_make_dense, made_dense
from pyro_vae.data.sparse.sparse_rows import SparseRows
from pyro_vae.data.sparse.sparse_split import SparseSplit
from pyro_vae.data.split import Split
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, condition_codes, relabelled, require_complete, table_from_frame
from pyro_vae.errors import InputError, UnknownValueWarning
from pyro_vae.options import options_of

if TYPE_CHECKING:
    import pandas

MAX_NEW_BYTES = 2**26  # of the rows of a `.npy` that are read into memory, where they are the same on disk


@dataclass(frozen=True)
class Preparation:
    """What new rows have to go through, from the rows that a program was fitted to, and the way back.

    Attributes:
        measure: how stored values become x.
        num_features: the number D of the values of a row.
        schema: the columns with their kinds.
        missing: whether missing values are taken.
        stream: whether rows stay on disk where they can.
        layer: the layer of annotated rows that holds the values.
        images: how the images of a folder are read, and the shape that images have to have.
    """

    measure: Measure
    num_features: int
    schema: Schema = field(default_factory=Schema)
    missing: bool = False
    stream: bool | None = None
    layer: str | None = None
    images: ImageSettings = AS_THEY_ARE

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values of a row; empty where they have none."""
        return self.schema.coded_names

    @property
    def label_levels(self) -> tuple[str, ...]:
        """The text of labels 0, 1, …; empty for whole numbers."""
        return self.schema.label_levels

    def __call__(self, rows: Source, header: str = "auto") -> Split:
        """Rows of a file or in memory, in their order, as a split on the measure that the program was fitted to.

        Args:
            rows: a file, a folder of images, an array, tensor or sparse matrix (N, D), or a data frame or annotated
                rows (AnnData), whose columns may be in any order.
            header: whether the first row of a text table holds names: yes, no or auto.

        Returns:
            The split; `InputError` for columns or values of another kind.
        """
        options_of(DataConfig)["header"].check(header)
        fields = Fields(self.schema.label.name if self.schema.label else None, self.layer, needs_label=False)
        if isinstance(rows, str | Path):
            path = Path(rows)
            stream = True if self.stream and path.suffix.lower() in (".npy", ".parquet") else None
            name, is_masked = str(rows), self.missing or self.schema.is_coded
            fields = fields if path.suffix.lower() in ANNOTATED_SUFFIXES else Fields()
            most = None if path.suffix.lower() != ".npy" or self._is_drawn else MAX_NEW_BYTES
            read = read_rows(path, is_masked, stream, header, fields, self.images, most)
        else:
            name = "the data"
            read = read_memory(rows, fields if isinstance(rows, AnnotatedRows) else Fields())
        if isinstance(read, Frame):
            table = self._of_frame(read)
        else:
            table = self._of_array(keep_or_make_dense(read, Path(name), self.missing), name)
        self._check_shape(table.image_shape, name)
        self._check(table.values, name)
        if not self.missing:
            require_complete(replace(table, given=None), Path(name))
        if table.given is not None:
            require_conditions(self.schema, table.given, name)
            table = replace(table, schema=self.schema)
        return make_split("given", replace(table, image_shape=None), self.measure)

    @property
    def _is_drawn(self) -> bool:
        """Whether x is more than shifted and scaled values: then rows on disk would have other ones than in memory."""
        return bool(self.measure.binarize != "none" or self.measure.dequantize or not self.measure.scale)

    def _of_frame(self, frame: Frame) -> Table[Values]:
        if self.schema.modelled:
            frame = frame_by_schema(frame, self.schema)
            table = table_from_frame(frame, self.schema)
            self._warn_of_unknown_values(frame, table.values)
            return table
        names = list(frame.values.columns)  # the program was fitted to an array: by their places
        labels = [name for name in names if frame.has_names and name.lower() in LABEL_COLUMNS][:1]
        own = self.schema.label or Column("label", "label")
        columns = [replace(own, name=name) if name in labels else Column(name, "real") for name in names]
        return table_from_frame(frame, Schema(tuple(columns), has_names=False))

    def _warn_of_unknown_values(self, frame: Frame, codes: Tensor) -> None:
        """`UnknownValueWarning` for each column with a level of no training row, or a value that it cannot have."""
        shift, scale = (codes.new_tensor(values) for values in (self.measure.shift, self.measure.scale))
        x = (codes - shift) / scale if self.measure.scale else codes
        for words in unknown_values(frame.values, codes.numpy(), x.numpy(), self.schema):
            warnings.warn(f"{frame.source}: {words}", UnknownValueWarning, stacklevel=4)

    def _of_array(self, table: Table[Values], name: str) -> Table[Values]:
        """The table with its columns in the order of the fit, where both know their names, and the fit's labels."""
        if self.schema.is_coded:
            names = ", ".join(column.name for column in self.schema.modelled)
            raise InputError(
                f"{name}: this run was fitted to columns with kinds ({names}); give a data frame or a file of columns"
            )
        expected = self.columns
        if expected and table.columns and table.columns != expected:
            if missing := [column for column in expected if column not in table.columns]:
                raise InputError(f"{name}: no column {_few(missing)}; this run was fitted to {_few(expected)}")
            order = [table.columns.index(column) for column in expected]
            values = table.values
            if isinstance(values, RowsOnDisk):
                values = validate_rows(values.take_columns(order), Path(name))
            elif isinstance(values, Tensor):
                values = values[:, order]
            else:
                values = values.take_columns(order)
            table = replace(table, values=values)
        return self._relabelled(table, name)

    def _relabelled(self, table: Table[Values], name: str) -> Table[Values]:
        """The table with labels in the places that they had in the fit; −1 for one that was not among them."""
        labels, label = table.labels, self.schema.label
        if labels is not None:
            labels = relabelled(labels, table.label_levels, label.levels if label else ())
        return replace(table, labels=labels, schema=self.schema, given=condition_codes(self.schema, labels, None, name))

    def _check_shape(self, found: ImageShape | None, name: str) -> None:
        """`InputError` for images of another shape than those of the fit, where both are known."""
        expected = self.images.fitted
        if expected is None or found is None or found == expected:
            return
        kind, wanted = ("colour" if is_colour(shape) else "grey" for shape in (found, expected))
        raise InputError(
            f"{name}: holds {kind} images of {describe_shape(found)}, but this run was fitted to {wanted} images of "
            f"{describe_shape(expected)}; bring them to that shape"
        )

    def _check(self, values: Values, name: str) -> None:
        if values.shape[1] != self.num_features:
            raise InputError(
                f"{name}: {values.shape[1]} columns, but this run was fitted to rows of {self.num_features}; give rows "
                "of the same kind"
            )
        if (levels := self.measure.levels) is None:
            return
        known = observed_values(values)
        low, high = float(known.min()), float(known.max())
        is_rescaled = levels > 1 and known.is_floating_point() and high <= 1
        if high > levels or is_rescaled or low < 0:
            raise InputError(
                f"{name}: values from {low:g} to {high:g}, but this run was fitted to images of 0 to {levels}; bring "
                "them to that range"
            )

    def given(self, values: Mapping[str, Value], num_rows: int) -> Tensor:
        """Conditions that are said by their values, as a program gets them, the same for some rows.

        Args:
            values: the value of each condition by name; None for a missing one.
            num_rows: the number n of rows.

        Returns:
            The row input `given` (n, C); `InputError` for a name or a value that there is not, and for a condition that
            is not said.
        """
        return standardized(self.schema, given_codes(values, self.schema)).expand(num_rows, -1)

    def to_frame(self, x: Tensor, rounded: bool = True, given: Tensor | None = None) -> "pandas.DataFrame":
        """Values of x as a frame with the columns' own names, order, types and units.

        Args:
            x: the values (N, D), as a program draws or reconstructs them.
            rounded: whether numbers become whole where the column's are, as draws should; means should not.
            given: the row input `given` (N, C), whose columns come back too.

        Returns:
            The frame (N rows).
        """
        import pandas

        values = self.measure.to_original_units(x.detach().cpu()).double().numpy()
        if self.schema.modelled:
            codes = None if given is None else original_codes(self.schema, given)
            return self.schema.decode(values, rounded, codes)
        return pandas.DataFrame(values, columns=[f"x{i + 1}" for i in range(values.shape[1])])


def make_split(name: str, table: Table[Values], measure: Measure) -> Split:
    """A table's rows with a measure.

    Args:
        name: the split's name.
        table: the rows.
        measure: how stored values become x.

    Returns:
        The split, a `SplitOnDisk` or `SparseSplit` where the rows are on disk or sparse.
    """
    values, about = draw_dense(table, measure).values, (measure, table.labels, table.image_shape, table.index)
    inputs = {} if table.given is None else {GIVEN: standardized(table.schema, table.given)}
    if isinstance(values, Tensor):
        return Split(name, values, *about, inputs=inputs, ids=table.ids, weights=table.weights)
    if isinstance(values, RowsOnDisk):
        return SplitOnDisk(name, values, *about, inputs=inputs, ids=table.ids, weights=table.weights)
    assert isinstance(values, SparseRows)
    return SparseSplit(name, values, *about, inputs=inputs, ids=table.ids, weights=table.weights)


def draw_dense(table: Table[Values], measure: Measure) -> Table[Values]:
    """A table with its sparse rows made dense where x is drawn at random: the draws of the zeros matter too.

    Args:
        table: the rows.
        measure: how stored values become x.

    Returns:
        The table; `InputError` for dense rows of more than 1 GiB.
    """
    values = table.values
    if not isinstance(values, SparseRows):
        return table
    known = values.representative_values
    is_drawn = measure.binarize in ("stochastic", "fixed") and bool(((known != 0) & (known != measure.levels)).any())
    if not is_drawn and not measure.dequantize:
        return table
    remedy = "noise is added (dequantize)" if measure.dequantize else "pixels are binarized at random (binarize)"
    return made_dense(table, Path("the sparse rows"), remedy)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def require_same_preparation(fitted: Measure | None, given: Measure) -> None:
    """`InputError` where rows were shifted or scaled otherwise than those that a program was fitted to.

    Both would be called "original units", and every density would be of other rows.

    Args:
        fitted: the measure of the rows that the program was fitted to; None where it is not known.
        given: the measure of the rows at hand.
    """
    if fitted is None or fitted.given or given.given or (fitted.shift, fitted.scale) == (given.shift, given.scale):
        return
    raise InputError(
        "these rows were standardized otherwise than those that the program was fitted to (by their own means and "
        "deviations): prepare them by the data set of the fit, data.prepare('new.csv') or data.prepare(frame), or use "
        "the command (pyro-vae score RUN new.csv)"
    )
