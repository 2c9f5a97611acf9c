"""Guides that hold a q of its own for each row of some data, around a program left alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import require_density
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs, require_mask
from pyro_vae.programs.traces import unwrap_independent


class RowNormals(nn.Module):
    r"""One latent site's normal for each of n rows, $z_i = \mu_i + \mathrm{diag}(\sigma_i) U_i u$, $u \sim N(0, I)$.

    Buffers `loc` and `log_scale`, rows first, (n, …, K), and for a `MultivariateNormal` `below` (n, …, K, K), of which
    what lies below the diagonal is that of U, unit lower triangular. Made from the site of a guide's trace.
    """

    loc: Tensor
    log_scale: Tensor
    below: Tensor

    def __init__(self, site: Any, row_dim: int) -> None:
        super().__init__()
        fn, base = site["fn"], unwrap_independent(site["fn"])
        self.site, self.row_axis, self.to_event = site["name"], row_dim - fn.event_dim, fn.event_dim - base.event_dim
        self.plates: dict[str, Any] = {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}
        scale, self.full = base.stddev, isinstance(base, MultivariateNormal)
        if self.full:
            scale = base.scale_tril.diagonal(dim1=-2, dim2=-1)
            unit = base.scale_tril / scale[..., None]
            self.register_buffer("below", unit.movedim(self.row_axis - 1, 0).clone())
        self.register_buffer("loc", base.loc.movedim(self.row_axis, 0).clone())
        self.register_buffer("log_scale", scale.log().movedim(self.row_axis, 0).clone())

    def forward(self, rows: Tensor) -> Any:
        loc, scale = (value[rows].movedim(0, self.row_axis) for value in (self.loc, self.log_scale.exp()))
        if not self.full:
            return dist.Normal(loc, scale).to_event(self.to_event)
        unit = self.below[rows].movedim(0, self.row_axis - 1).tril(-1) + torch.eye(loc.shape[-1]).to(loc)
        return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit).to_event(self.to_event)


class RowOutputs(nn.Module):
    """What one module of a guide gives for each of n rows, as a buffer `outputs` (n, P) instead of a network's
    answer."""

    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs.clone())


class Tabled(nn.Module):
    """A program's own model beside another guide: a table with a q for each of N rows, to be looked up by `rows`.

    The model is the program's, given whatever it asks for; `rows` (n,) are places in the x (N, D) that the table was
    made for, and the model is given the `places` that were given then. Raises `InputError` for places outside the N.
    """

    places: Tensor | None

    def __init__(self, program: Any, places: Tensor | None) -> None:
        super().__init__()
        self.program = program
        self.register_buffer("places", places)
        self.training = getattr(program, "training", False)  # or a verb would leave the program in another mode

    def model(self, x: Tensor, **row_inputs: Any) -> Any:
        with use_param_store(self.program):
            return bind_supported_kwargs(self.program.model)(x, self._own(row_inputs))

    model.accepts_row_inputs = True  # type: ignore[attr-defined]  # for `bind_supported_kwargs`

    def _own(self, row_inputs: dict[str, Any]) -> dict[str, Any]:
        """The row_inputs as the program knows them, `rows` for its own places."""
        rest = {name: value for name, value in row_inputs.items() if name != "rows"}
        known = self.places is not None and "rows" in row_inputs
        return rest | {"rows": self.places[row_inputs["rows"]]} if known else rest  # type: ignore[index]

    def _known(self, rows: Tensor | None, known: int, done: str) -> Tensor:
        if rows is None:
            raise InputError(
                f"a {done} guide asks for rows, the places of x among the rows that were {done}: give rows="
            )
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < known:
            raise InputError(f"{known} rows were {done}; asked for rows {int(rows.min())} to {int(rows.max())}")
        return rows


class Refined(Tabled):
    """A program whose guide is a table: a $q_i(z)$ for each of the N rows that were refined."""

    sites: Any

    def __init__(
        self,
        program: Any,
        sites: list[RowNormals] | list[RowOutputs],
        row_dim: int,
        places: Tensor | None,
        freed: nn.Module | None = None,
    ) -> None:
        super().__init__(program, places)
        self.sites, self.row_dim = nn.ModuleList(sites), row_dim
        self.freed = [freed]  # in a list: it belongs to the program

    def guide(self, x: Tensor, rows: Tensor | None = None, **row_inputs: Any) -> None:
        rows = self._known(rows, len(next(self.sites[0].buffers())), "refined")
        if self.freed[0] is not None:
            self._guide_of_outputs(x, rows, row_inputs)
        else:
            self._guide_of_normals(x, rows)

    guide.accepts_row_inputs = True  # type: ignore[attr-defined]  # for `bind_supported_kwargs`

    def _guide_of_outputs(self, x: Tensor, rows: Tensor, row_inputs: dict[str, Any]) -> None:
        """The program's own guide, but for the freed module, which answers from the table."""
        answer = self.sites[0].outputs[rows]
        with use_param_store(self.program), _answering(self.freed[0], lambda _: answer):
            bind_supported_kwargs(self.program.guide)(x, self._own(row_inputs | {"rows": rows}))

    def _guide_of_normals(self, x: Tensor, rows: Tensor) -> None:
        frames = {name: frame for q in self.sites for name, frame in q.plates.items()}
        sizes = {name: len(x) if frame.dim == self.row_dim else frame.size for name, frame in frames.items()}
        plates = {name: pyro.plate(name, sizes[name], dim=frame.dim) for name, frame in frames.items()}
        for q in self.sites:
            with ExitStack() as inside:
                for name in q.plates:
                    inside.enter_context(plates[name])
                pyro.sample(q.site, q(rows))


@contextmanager
def _answering(module: Any, answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, what a module gives is passed through a function."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: answer(output))
    try:
        yield
    finally:
        handle.remove()


def whole_batch(program: Any, split: Split, **asked: Tensor | None) -> Batch:
    """All rows of a split where the program works, with what belongs to them; `InputError` where it does not fit."""
    given = split.row_inputs(slice(None)) | {name: value for name, value in asked.items() if value is not None}
    if wrong := [f"{len(value)} {name}" for name, value in given.items() if len(value) != len(split)]:
        raise InputError(f"expected one for each of the {len(split)} rows of x, got {', '.join(wrong)}")
    require_density(program)
    require_mask(program, given.get("mask"))
    device, dtype = device_and_dtype(program, like=split[:1])
    given = {name: value.to(device) for name, value in given.items()}
    return Batch(split.x.to(device, dtype), num_rows=len(split), **given)  # type: ignore[arg-type]
