"""The data of the report's explorer: decoded planes through the latent space, and rows to click on."""

import base64
import inspect
import io
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

from pyro_vae.context_managers import PYRO_LOCK, evaluating, seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import Column
from pyro_vae.data.image_shapes import NUM_COLOURS, height_and_width, is_colour
from pyro_vae.diagnostics.latent_codes import encode_rows, reconstruct_rows
from pyro_vae.errors import InputError
from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.plots import style
from pyro_vae.plots.display_units import column_names, observed, stored_to_pixels, to_pixels
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.program_defaults import decoder_of
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites, trace_program
from pyro_vae.report.explorer_conditions import NO_DECODER, Conditions, decode_given, given_starts
from pyro_vae.report.latent_planes import BasePoint, Plane, base_points, latent_planes
from pyro_vae.typing import Program, RowLatents, Rows

MAX_SIDE, MIN_SIDE = 41, 5  # grid points along a side of a plane
PICTURE_VALUES, TABLE_VALUES = 6_000_000, 250_000  # decoded values in a page
PICTURE_ROWS, TABLE_ROWS = 1_000_000, 250_000  # values of its rows
MAX_TEXT = 2_600_000  # letters of all grids, so that a page of pictures stays below 5 MB
SHADES = 64  # of a decoded pixel
MAX_IMAGE_SIDE = 96  # of a picture, in pixels; larger ones are shown at a whole fraction of their size


class ExplorerPlane(TypedDict):
    """A plane: its name and its axes' names, its lowest and highest coordinates, and where the rows lie on it."""

    name: str
    names: tuple[str, ...]
    low: list[float]
    high: list[float]
    at: list[list[float]]


class ExplorerStart(TypedDict):
    """A point that the planes go through: its name, its row if it is one, and its coordinates on each plane."""

    name: str
    row: int | None
    at: list[list[float]]


class ExplorerRows(TypedDict):
    """The rows to click on; pictures and values as the text of `RowEncoder`, log p(x) in nats."""

    index: list[int]
    labels: list[int] | None
    log_px: list[float | None] | None
    khat: list[float | None] | None
    khat_limit: float | None
    stored: str
    scored: str | None
    again: str


class Explorer(TypedDict):
    """All that the page's script reads, as JSON: see `explorer`."""

    picture: tuple[int, int] | None
    channels: int
    label_levels: list[str]
    shrink: int
    columns: list[str]
    levels: list[list[str] | None]
    dates: list[bool]
    low: list[float]
    high: list[float]
    size: int
    planes: list[ExplorerPlane]
    starts: list[ExplorerStart]
    given: str
    grids: list[list[str]]
    blend_error: float
    rows: ExplorerRows
    colours: list[str]
    plain_colour: str
    shades: list[str]


def reason_for_no_explorer(program: Program, split: Split) -> str:
    """Why this program has no plane to explore; empty where it has one.

    Args:
        program: the fitted program.
        split: the rows to show.

    Returns:
        The reason, or an empty text.
    """
    if len(split) < 3:
        return f"a plane is spanned by three rows or more, and there are {len(split)}"
    decode = decoder_of(program)
    if decode is None:
        return NO_DECODER
    named = [
        p for p in inspect.signature(decode).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    x, row_inputs = _inputs(program, split.head(3))
    if needed := [p.name for p in named[1:] if p.default is p.empty and p.name not in row_inputs]:
        return f"its decoder needs more than z: {', '.join(needed)}"
    try:
        means = encode_rows(program, x, **row_inputs)
        first = {name: value[:1] for name, value in row_inputs.items()}
        decoded = decode_given(program, means, Conditions(row_inputs=first))
    except InputError as error:
        return str(error)
    if len(sites := _latent_sites(program, split)) > 1:
        return f"z has {len(sites)} sites ({', '.join(sites)}), and a plane shows one"
    if decoded.shape != x.shape:
        return "decode(z) returns another shape than that of the rows"
    return ""


def _inputs(program: Program, split: Split) -> tuple[Rows, dict[str, Tensor]]:
    """The rows and their row inputs, on the device and in the type of the program."""
    device, dtype = device_and_dtype(program, like=split[:1])
    return split.x.to(device, dtype), {name: value.to(device) for name, value in split.row_inputs(slice(None)).items()}


def _latent_sites(program: Program, split: Split) -> list[str]:
    x, row_inputs = _inputs(program, split.head(3))
    batch = Batch.of(x, row_inputs)
    with torch.no_grad(), PYRO_LOCK, poutine.block(), seeded(0), use_param_store(program), evaluating(program):
        _, guide = trace_program(program, batch)
    return [name for name, site in sample_sites(guide).items() if not site["infer"].get("is_auxiliary")]


class RowEncoder:
    """Rows (n, D) as text for the page: one PNG with a line of pixels for each picture, or float32.

    Grey pictures are dark on white.

    Neighbours in a grid are neighbouring lines of the PNG, which its filters turn into small differences. A table's
    values are in the data's own units, less each column's `low`.
    """

    def __init__(self, split: Split) -> None:
        self.split, self.shape = split, split.image_shape
        height, width = (1, 1) if self.shape is None else height_and_width(self.shape)
        self.channels = NUM_COLOURS if is_colour(self.shape) else 1
        self.shrink = -(-max(height, width) // MAX_IMAGE_SIDE)
        self.shown = None if self.shape is None else (height // self.shrink, width // self.shrink)
        self.stored = (
            stored_to_pixels(split) if self.shape else torch.from_numpy(observed(split, torch.arange(len(split))))
        )
        self.low, self.high = _ends(self.stored) if self.shape is None else (torch.zeros(1), torch.ones(1))

    @property
    def width(self) -> int:
        """Values of a row as shown."""
        return self.stored.shape[1] if self.shown is None else self.channels * self.shown[0] * self.shown[1]

    def values(self, x: Rows) -> Tensor:
        """Model values as a reader sees them: pixels from 0 to 1, or a table's own units."""
        return to_pixels(self.split, x) if self.shape else self.split.measure.to_original_units(x).double()

    def text(self, values: Tensor, shades: int = 256) -> str:
        if self.shape is None:
            return base64.b64encode((values - self.low).float().numpy().tobytes()).decode()
        if self.shrink > 1:
            pictures = values.reshape(len(values), self.channels, *height_and_width(self.shape))
            values = F.avg_pool2d(pictures, self.shrink).flatten(1)
        light = (values * (shades - 1)).round() * 255 / (shades - 1)
        light = light.unflatten(1, (self.channels, -1)).movedim(1, -1) if is_colour(self.shape) else 255 - light
        content = io.BytesIO()
        Image.fromarray(light.round().to(torch.uint8).contiguous().numpy()).save(content, "png", optimize=True)
        return base64.b64encode(content.getvalue()).decode()


def _ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest known value of each column, zero where none is known."""
    known = ~values.isnan()
    ends = torch.where(known, values, torch.inf).amin(0), torch.where(known, values, -torch.inf).amax(0)
    return ends[0].nan_to_num(posinf=0.0), ends[1].nan_to_num(neginf=0.0)


def fitting_rows(split: Split, num_rows: int) -> Split:
    """The first rows of a split, as many as fit on the page.

    Args:
        split: the split.
        num_rows: the most rows to show.

    Returns:
        The rows.
    """
    most = PICTURE_ROWS if split.image_shape else TABLE_ROWS
    return split.head(max(3, min(num_rows, most // RowEncoder(split.head(1)).width)))


@torch.no_grad()
def explorer(program: Program, data: Dataset, split: Split, found: LogPx | None = None, seed: int = 0) -> Explorer:
    """All that the page's script needs, as plain values: planes, base points, decoded grids, and the rows.

    Grids are as fine as `PICTURE_VALUES` or `TABLE_VALUES` allow; between grid points the page interpolates, and
    `blend_error` is its mean error halfway, as a share of the range.

    Args:
        program: the fitted program.
        data: its data set.
        split: the rows to show (N, D).
        found: log p(x) of the same rows.
        seed: of the means, where they are drawn.

    Returns:
        The values.
    """
    x, row_inputs = _inputs(program, split)
    with seeded(seed):
        means = encode_rows(program, x, **row_inputs).cpu().double()
        again = reconstruct_rows(program, x, **row_inputs).cpu()
    encoder = RowEncoder(split)
    planes, points = latent_planes(means), base_points(means, split.labels, data.label_levels)
    starts = given_starts(program, data, split, points)

    def decoded(plane: Plane, start: tuple[BasePoint, Conditions], size: int, shift: float = 0.0) -> Tensor:
        point, conditions = start
        return encoder.values(decode_given(program, plane.grid(point.z, size, shift).to(x), conditions).cpu())

    size = grid_size(encoder, len(planes) * len(starts), planes[0].directions.shape[1])
    grids = [[encoder.text(decoded(plane, start, size), SHADES) for start in starts] for plane in planes]
    if (length := sum(len(text) for line in grids for text in line)) > MAX_TEXT:  # noise does not compress
        size = max(MIN_SIDE, int(size * (MAX_TEXT / length) ** 0.5))
        grids = [[encoder.text(decoded(plane, start, size), SHADES) for start in starts] for plane in planes]
    cells, halfway = (decoded(planes[0], starts[0], size, shift) for shift in (0.0, 0.5))
    return {
        "picture": encoder.shown,
        "channels": encoder.channels,
        "label_levels": list(data.label_levels),
        "shrink": encoder.shrink,
        "columns": [] if split.image_shape else column_names(data),
        "levels": [[str(level) for level in column.levels] or None for column in _coded(data)],
        "dates": [column.kind == "datetime" for column in _coded(data)],
        "low": [] if split.image_shape else encoder.low.tolist(),
        "high": [] if split.image_shape else encoder.high.tolist(),
        "size": size,
        "planes": [_plain(plane, means, seed) for plane in planes],
        "starts": [{"name": start.name, "row": start.row, "at": _coordinates(planes, start.z)} for start, _ in starts],
        "given": starts[0][1].words if len(starts) == 1 else starts[0][1].words and "named with each point",
        "grids": grids,
        "blend_error": _blend_error(cells, halfway, size, encoder),
        "rows": _rows(split, encoder, again, found),
        "colours": list(style.COLOURS),
        "plain_colour": style.BLUE,
        "shades": [to_hex(style.SHADES(at)) for at in np.linspace(0.25, 1, 7)],
    }


def _coded(data: Dataset) -> Sequence[Column]:
    """The columns whose values are codes of their kinds; those of plain numbers have neither levels nor dates."""
    if data.schema.coding == "columns":
        return data.schema.modelled
    return [Column(name, "real") for name in ([] if data.image_shape else column_names(data))]


def grid_size(encoder: RowEncoder, num_grids: int, num_directions: int) -> int:
    most = (PICTURE_VALUES if encoder.shape else TABLE_VALUES) / (num_grids * encoder.width)
    return max(MIN_SIDE, min(MAX_SIDE, int(most ** (1 / num_directions))))


def _plain(plane: Plane, means: RowLatents, seed: int) -> ExplorerPlane:
    points, low, high = plane.at(means), plane.low, plane.high
    if points.shape[1] == 1:  # a line: spread out in height to be seen
        spread = torch.rand(len(points), 1, generator=torch.Generator().manual_seed(seed), dtype=points.dtype)
        points, low, high = (
            torch.cat([points, spread], 1),
            low.new_tensor([low[0], -0.6]),
            high.new_tensor([high[0], 1.1]),
        )
    return {
        "name": plane.name,
        "names": plane.names,
        "low": low.tolist(),
        "high": high.tolist(),
        "at": _rounded(points),
    }


def _coordinates(planes: list[Plane], z: Tensor) -> list[list[float]]:
    return [_rounded(plane.at(z[None]))[0] for plane in planes]


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in line] for line in values.tolist()]


def _blend_error(grid: Tensor, halfway: Tensor, size: int, encoder: RowEncoder) -> float:
    """Mean distance between the interpolation of neighbouring grid points, halfway, and the decoding there.

    As a share of each column's range; a column that has none is left out.
    """
    if len(grid) == size:
        away = (grid[1:] + grid[:-1]) / 2 - halfway[:-1]
    else:
        cells, known = grid.unflatten(0, (size, size)), halfway.unflatten(0, (size, size))
        blend = (cells[1:, 1:] + cells[:-1, 1:] + cells[1:, :-1] + cells[:-1, :-1]) / 4
        away = blend - known[1:, :-1]  # half a cell to the right and up: the square above
    room = (encoder.high - encoder.low).expand(away.shape[-1])
    shares = away.abs()[..., room > 0] / room[room > 0]
    return float(shares.mean()) if shares.numel() else 0.0


def _finite(values: Tensor) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _rows(split: Split, encoder: RowEncoder, again: Rows, found: LogPx | None) -> ExplorerRows:
    sampled = found if isinstance(found, Evidence) else None
    index = torch.arange(len(split)) if split.index is None else split.index
    drawn = split.image_shape is not None and split.measure.binarize != "none"
    return {
        "index": index.tolist(),
        "labels": None if split.labels is None else split.labels.tolist(),
        "log_px": None if found is None else _finite(found.log_px),
        "khat": None if sampled is None else _finite(sampled.khat),
        "khat_limit": None if sampled is None else khat_limit(sampled.num_samples),
        "stored": encoder.text(encoder.stored),
        "scored": encoder.text(to_pixels(split, split.x, split.mask)) if drawn else None,
        "again": encoder.text(encoder.values(again)),
    }
