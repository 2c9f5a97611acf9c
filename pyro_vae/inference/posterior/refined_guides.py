"""Programs whose guide is a table with one q_i for each row of some data; the wrapped program is not changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import require_same_preparation
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import require_density
from pyro_vae.programs.program_defaults import fitted_measure_of
from pyro_vae.programs.row_inputs import Batch, accepts_row_inputs, bind_supported_kwargs, functions_of, require_mask
from pyro_vae.programs.traces import Site, unwrap_independent
from pyro_vae.typing import Distribution, Program


class RowNormals(nn.Module):
    r"""One latent site's normal for each of n rows, $z_i = \mu_i + \mathrm{diag}(\sigma_i) U_i u$, $u \sim N(0, I)$.

    Buffers `loc` and `log_scale`, rows first, (n, …, K), and for a `MultivariateNormal` `unit_tril` (n, …, K, K), whose
    entries below the diagonal are those of U, unit lower triangular.

    Args:
        site: the latent's site in a guide's trace.
        row_dim: the dimension of the plate over rows.
    """

    loc: Tensor
    log_scale: Tensor
    unit_tril: Tensor

    def __init__(self, site: Site, row_dim: int) -> None:
        super().__init__()
        fn, base = site["fn"], unwrap_independent(site["fn"])
        self.site, self.row_axis = site["name"], row_dim - fn.event_dim
        self.num_independent = fn.event_dim - base.event_dim
        self.plates: dict[str, CondIndepStackFrame] = {
            frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized
        }
        scale, self.full = base.stddev, isinstance(base, MultivariateNormal)
        if self.full:
            scale = base.scale_tril.diagonal(dim1=-2, dim2=-1)
            unit = base.scale_tril / scale[..., None]
            self.register_buffer("unit_tril", unit.movedim(self.row_axis - 1, 0).clone())
        self.register_buffer("loc", base.loc.movedim(self.row_axis, 0).clone())
        self.register_buffer("log_scale", scale.log().movedim(self.row_axis, 0).clone())

    def forward(self, rows: Tensor) -> Distribution:
        loc, scale = (value[rows].movedim(0, self.row_axis) for value in (self.loc, self.log_scale.exp()))
        if not self.full:
            return dist.Normal(loc, scale).to_event(self.num_independent)
        unit = self.unit_tril[rows].movedim(0, self.row_axis - 1).tril(-1) + torch.eye(loc.shape[-1]).to(loc)
        return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit).to_event(self.num_independent)


class RowOutputs(nn.Module):
    """The output of one module of a guide for each of n rows, as a buffer `outputs` (n, P)."""

    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs.clone())


class PerRowProgram(nn.Module):
    """A program's model with another guide: a table with a q_i for each of N rows, indexed by `rows`.

    `rows` (n,) are indices into the x (N, D) that the table was made for. The model is the program's. Raises
    `InputError` for indices outside the N.

    Args:
        program: the program.
        program_rows: the program's own indices (N,) of those rows, which its model gets; None where it has none.
    """

    program_rows: Tensor | None

    def __init__(self, program: Program, program_rows: Tensor | None) -> None:
        super().__init__()
        self.program = program
        self.register_buffer("program_rows", program_rows)
        self.training = (
            isinstance(program, nn.Module) and program.training
        )  # so that `evaluating` restores the program's mode

    @property
    def functions(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """The program's functions: their signatures say what row inputs they take."""
        return functions_of(self.program)

    @accepts_row_inputs
    def model(self, x: Tensor, **row_inputs: object) -> object:
        """The program's model.

        Args:
            x: the rows (n, D).
            **row_inputs: what the program's model takes; `rows` are indices among the N.

        Returns:
            What the program's model returns.
        """
        with use_param_store(self.program):
            return bind_supported_kwargs(self.program.model)(x, self._program_inputs(row_inputs))

    def _program_inputs(self, row_inputs: dict[str, object]) -> dict[str, object]:
        """The row inputs for the program: `rows` are its own indices, left out where it has none."""
        rest = {name: value for name, value in row_inputs.items() if name != "rows"}
        rows = row_inputs.get("rows")
        return (
            rest
            if self.program_rows is None or not isinstance(rows, Tensor)
            else rest | {"rows": self.program_rows[rows]}
        )

    def _check_rows(self, rows: Tensor | None, num_rows: int, verb: str) -> Tensor:
        """The rows, given and in range; `verb` says in the message what was done with the table's rows."""
        if rows is None:
            raise InputError(f"this guide needs rows, the indices of x among the rows that were {verb}: give rows=")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise InputError(f"{num_rows} rows were {verb}; got rows {int(rows.min())} to {int(rows.max())}")
        return rows


class Refined(PerRowProgram):
    """A program whose guide is a table: a $q_i(z)$ for each of the N rows that were refined.

    Args:
        program: the program.
        sites: each latent's normals, or the outputs of one module of the guide.
        row_dim: the dimension of the plate over rows.
        program_rows: the program's own indices (N,) of those rows; None where it has none.
        replaced: the module of the guide whose outputs `sites` holds.
    """

    def __init__(
        self,
        program: Program,
        sites: Sequence[RowNormals] | Sequence[RowOutputs] | nn.ModuleList,
        row_dim: int,
        program_rows: Tensor | None,
        replaced: nn.Module | None = None,
    ) -> None:
        super().__init__(program, program_rows)
        self.sites, self.row_dim = nn.ModuleList(sites), row_dim
        self.replaced = [replaced]  # in a list, so that it is not registered twice: it belongs to the program

    @accepts_row_inputs
    def guide(self, x: Tensor, rows: Tensor | None = None, **row_inputs: object) -> None:
        """Draw the latents of some rows.

        Args:
            x: the rows (n, D).
            rows: their indices (n,) among the N.
            **row_inputs: what the program's guide takes.
        """
        rows = self._check_rows(rows, len(next(self.sites[0].buffers())), "refined")
        table, module = self.sites[0], self.replaced[0]
        if module is None or not isinstance(table, RowOutputs):
            self._sample_normals(x, rows)
            return
        with use_param_store(self.program), transform_output(module, lambda _: table.outputs[rows]):
            bind_supported_kwargs(self.program.guide)(x, self._program_inputs(row_inputs | {"rows": rows}))

    def _sample_normals(self, x: Tensor, rows: Tensor) -> None:
        """Sample each site from its rows' normals, in the plates of the program's guide."""
        normals = [q for q in self.sites if isinstance(q, RowNormals)]
        frames = {name: frame for q in normals for name, frame in q.plates.items()}
        sizes = {name: len(x) if frame.dim == self.row_dim else frame.size for name, frame in frames.items()}
        plates = {name: pyro.plate(name, sizes[name], dim=frame.dim) for name, frame in frames.items()}
        for q in normals:
            with ExitStack() as stack:
                for name in q.plates:
                    stack.enter_context(plates[name])
                pyro.sample(q.site, q(rows))


@contextmanager
def transform_output(module: nn.Module, transform: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, a module's output is passed through a function.

    Args:
        module: the module.
        transform: the function.

    Yields:
        None: nothing.
    """
    handle = module.register_forward_hook(lambda _module, _inputs, output: transform(output))
    try:
        yield
    finally:
        handle.remove()


def full_batch(program: Program, split: Split, **row_inputs: Tensor | None) -> Batch:
    """All rows of a split and their row inputs; `InputError` where a length does not fit.

    Args:
        program: the program.
        split: the N rows.
        **row_inputs: `rows`, `labels` and `mask` that are given in place of the split's own.

    Returns:
        The batch, on the program's device.
    """
    given = split.row_inputs(slice(None)) | {name: value for name, value in row_inputs.items() if value is not None}
    if wrong := [f"{len(value)} {name}" for name, value in given.items() if len(value) != len(split)]:
        raise InputError(f"expected one for each of the {len(split)} rows of x, got {', '.join(wrong)}")
    require_density(program)
    require_same_preparation(fitted_measure_of(program), split.measure)
    require_mask(program, given.get("mask"))
    device, dtype = device_and_dtype(program, like=split[:1])
    return Batch.of(split.x.to(device, dtype), given | {"num_rows": len(split)})
