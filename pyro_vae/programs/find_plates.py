"""Finds the plates of a program by running it on the rows that are asked for, and on a few of them."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.argument_checks import shape_errors_as_input
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.distributions import is_relaxed
from pyro_vae.errors import RowsError
from pyro_vae.programs.masked_latents import mask_of
from pyro_vae.programs.matching_sites import Sites, enumerated_latents
from pyro_vae.programs.plates import ONE_SIZE, PlateStructure, require_any_number_of_rows, sized
from pyro_vae.programs.point_masses import find_point_masses
from pyro_vae.programs.program_defaults import num_features_of
from pyro_vae.programs.pyro_guides import PriorGuide, are_set_up, forget_on_error
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import (
    innermost,
    is_constrained,
    is_point_mass,
    is_static,
    support_of,
    values_in_words,
    with_scalar_bounds,
)
from pyro_vae.programs.traces import Site, UnconditionObserved, sample_sites, trace_program
from pyro_vae.typing import Program

SHAPE_MISMATCH = "Shape mismatch inside plate"  # Pyro's words, of a parameter that has another number of rows
Frame = tuple[str, int]  # a plate's name and dimension


@dataclass(frozen=True)
class _Run:
    """The sample sites of a run on `num_rows` rows, those of the model and of the guide, empty if it was not run."""

    num_rows: int
    model: Sites
    guide: Sites

    @property
    def sites(self) -> list[Site]:
        return [*self.model.values(), *self.guide.values()]

    @cached_property
    def plate_sizes(self) -> dict[Frame, set[int]]:
        """The sizes that each vectorized plate has; more than one where model and guide differ."""
        sizes: dict[Frame, set[int]] = {}
        for site in self.sites:
            for name, dim, size in _vectorized(site):
                sizes.setdefault((name, dim), set()).add(size)
        return sizes

    def check(self) -> None:
        """`RowsError` where the guide's plate has another size than the model's plate of that name.

        A plate that subsamples takes its rows from the guide's plate of that name, so its size is that one's, and what
        it is a sample of is not.
        """
        whole: dict[Frame, set[int]] = {}
        for site in self.sites:
            for frame in site["cond_indep_stack"]:
                if frame.dim is not None and frame.size >= 0 and frame.size != self.num_rows:
                    whole.setdefault((frame.name, frame.dim), set()).update({frame.size, frame.full_size or frame.size})
        drawn = [frame for site in self.guide.values() for frame in site["cond_indep_stack"]]
        for (name, dim), sizes in whole.items():
            own = {frame.full_size for frame in drawn if frame.name == name}
            if self.num_rows in sizes and len(sizes) > 1 and own <= {self.num_rows}:
                raise RowsError(
                    f"the plate {name} takes {min(sizes)} of the {self.num_rows} rows at hand (subsample_size): leave "
                    "that out, as batch_size does it (pv.fit(…, batch_size=…))"
                )
            if len(self.plate_sizes[name, dim]) > 1 or (len(sizes) > 1 and self.num_rows in sizes):
                found = f"the guide's plate {name} has {min(sizes)} rows, and x has {self.num_rows}"
                raise RowsError(f"{found}: {ONE_SIZE}")


@torch.no_grad()
def find_plates(program: Program, batch: Batch) -> PlateStructure:
    """Find the plate over rows: the one that has the size of the batch, and another size for another number of rows.

    The program runs on the batch first, so that a guide that makes its parameters at its first run makes them for these
    rows; then on two or three of the rows. One that cannot do that, or whose guide keeps its size, is a program of as
    many rows as the batch has.

    Args:
        program: any program; `InputError` where model and guide do not draw the same latents, `RowsError` where the
            guide is one of another number of rows.
        batch: the rows that are asked for, or some of them, with their inputs.

    Returns:
        The plates of model and guide.
    """
    with seeded(0), evaluating(program):
        whole = _run(trace_rows, program, batch)
        enumerated = enumerated_latents(whole.model, whole.guide)
        few = _try_fewer(batch, partial(_run, trace_program, program))
        alone = few or _try_fewer(batch, partial(_run_model, bind_supported_kwargs(program.model)))
        plates = _plate_structure(batch, whole, alone, enumerated)
        plates = replace(plates, num_rows=None if few or plates.row_dim is None else len(batch.x))

        def draw_again() -> Sites:
            return sample_sites(trace_program(program, batch)[1])

        return replace(plates, point_masses=find_point_masses(whole.model, whole.guide, draw_again))


def find_plates_on_few(program: Program, few: Batch, whole: Callable[[], Batch]) -> tuple[Batch, PlateStructure]:
    """Find the plates on a few of the rows where that tells, and else on all of them.

    Args:
        program: any program.
        few: some of the rows with their inputs.
        whole: gives all of them.

    Returns:
        The rows that the program was run on, and its plates.
    """
    if are_set_up(program):  # a first run would be for these rows
        with suppress(Exception), forget_on_error(program):  # with all rows it may run, or says why not
            require_any_number_of_rows(plates := find_plates(program, few))
            return few, plates
    rows = whole()
    return rows, find_plates(program, rows)


def find_row_by_row(program: Program, batch: Batch) -> tuple[Program, PlateStructure]:
    """A program that has a q of its own for each of any number of rows, for what can do without the program's guide.

    Args:
        program: any program.
        batch: some rows with their inputs.

    Returns:
        The program itself, or its model with the prior as guide where the guide draws the latents of all rows together,
        or runs for one number of rows only; and the plates.
    """
    if are_set_up(program):  # a first run would be for these rows
        with suppress(Exception), forget_on_error(program):  # of the guide; the model's own come again below
            require_any_number_of_rows(plates := find_plates(program, batch))
            if not plates.joint:
                return program, plates
    with_prior = PriorGuide(program)
    return with_prior, find_plates(with_prior, batch)


@torch.no_grad()
def find_model_plates(program: Program, batch: Batch) -> PlateStructure:
    """Find the plate over rows from the model alone, which is all that sampling needs.

    Args:
        program: any program.
        batch: rows whose x holds placeholders, with their inputs.

    Returns:
        The plates of the model.
    """
    model = UnconditionObserved()(bind_supported_kwargs(program.model))

    run = partial(_run_model, model)
    with seeded(0), evaluating(program):
        return _plate_structure(batch, run(batch), _try_fewer(batch, run), enumerated=())


def trace_rows(program: Program, batch: Batch) -> tuple[Trace, Trace]:
    """A run as `trace_program` makes it; `RowsError` where it fails as the guide is one of another number of rows.

    Args:
        program: any program.
        batch: the rows with their inputs.

    Returns:
        The model's trace, replayed against the guide's, and the guide's.
    """
    width = "" if (known := num_features_of(program)) is None else f", and it has {known}"
    message = (
        f"the program does not run on rows of {batch.x.shape[1]} columns{width}; give rows of the width that its "
        "networks are made for, and parts with one number of latents"
    )
    with shape_errors_as_input(message):
        try:
            return trace_program(program, batch)
        except (RuntimeError, ValueError) as error:
            _check_sizes_apart(program, batch, error)
            raise


def _run(trace: Callable[[Program, Batch], tuple[Trace, Trace]], program: Program, batch: Batch) -> _Run:
    run = _Run(len(batch.x), *map(sample_sites, trace(program, batch)))
    run.check()
    return run


def _run_model(model: Callable[..., object], batch: Batch) -> _Run:
    """A run of a model alone."""
    with pyro.validation_enabled(False):
        return _Run(len(batch.x), sample_sites(poutine.trace(model).get_trace(batch.x, batch.row_inputs)), {})


def _check_sizes_apart(program: Program, batch: Batch, error: Exception) -> None:
    """`RowsError` where model and guide run on their own, but not for the same number of rows."""

    def run_alone(function: Callable[..., object]) -> Sites:
        return sample_sites(poutine.trace(bind_supported_kwargs(function)).get_trace(batch.x, batch.row_inputs))

    with pyro.validation_enabled(False):
        try:
            model = run_alone(program.model)
        except Exception as own:
            if SHAPE_MISMATCH not in str(own):
                return
            raise RowsError(
                f"the model does not run for {len(batch.x)} rows ({str(own).splitlines()[0]}): what it has for each "
                "row has to come with the rows, as an argument of its own (pv.Split(…, inputs={…}))"
            ) from error
        try:
            guide = run_alone(program.guide)
        except Exception as own:
            if SHAPE_MISMATCH not in str(own):
                return
            reason = str(own).splitlines()[0]
            raise RowsError(f"the guide does not run for {len(batch.x)} rows ({reason}): {ONE_SIZE}") from error
    try:
        _Run(len(batch.x), model, guide).check()
    except RowsError as other_size:
        raise other_size from error


def _try_fewer(batch: Batch, run: Callable[[Batch], _Run]) -> _Run | None:
    """A run on another number of rows; None where the program cannot: not on two or three, nor on one row fewer."""
    num_rows = len(batch.x)
    for few in dict.fromkeys((3 if num_rows == 2 else 2, max(num_rows - 1, 1))):
        index = torch.arange(few, device=batch.x.device) % num_rows  # repeated where the batch has fewer
        with suppress(Exception):  # any error of the program's own code at another number of rows
            return run(batch.take(index))
    return None


def _vectorized(site: Site) -> Iterable[tuple[str, int, int]]:
    """Name, dimension and size of each vectorized plate around a site."""
    frames: tuple[CondIndepStackFrame, ...] = site["cond_indep_stack"]
    return [(frame.name, frame.dim, sized(frame, site)) for frame in frames if frame.dim is not None]


def _plate_structure(batch: Batch, whole: _Run, few: _Run | None, enumerated: tuple[str, ...]) -> PlateStructure:
    sites, num_rows = whole.sites, whole.num_rows
    observed = [site for site in sites if site["is_observed"]]
    x_sites = [site for site in observed if site["value"].shape == batch.x.shape and _equal(site["value"], batch.x)]
    row_frames = {frame for frame, sizes in whole.plate_sizes.items() if sizes == {num_rows}}
    if few is not None:
        row_frames = {frame for frame in row_frames if few.plate_sizes.get(frame, {few.num_rows}) == {few.num_rows}}
    else:  # a plate over something else may have as many elements
        around_x = {(name, dim) for site in x_sites for name, dim, _ in _vectorized(site) if dim == _x_dim(site)}
        row_frames &= around_x or row_frames
    row_dim = _row_dim(row_frames, sites)
    row_frames = {(name, dim) for name, dim in row_frames if dim == row_dim}

    def is_inside(site: Site) -> bool:
        return any((name, dim) in row_frames for name, dim, _ in _vectorized(site))

    outside = [site["name"] for site in sites if not is_inside(site) and not site["infer"].get("is_auxiliary")]
    is_checked = len(x_sites) == 1 and x_sites[0]["fn"].support is not None
    others = [site for site in observed if not (is_checked and site is x_sites[0]) and is_inside(site)]
    return PlateStructure(
        row_dim=row_dim,
        nesting=max((-dim for site in sites for _, dim, _ in _vectorized(site)), default=0),
        outside=tuple(dict.fromkeys(outside)),
        support=with_scalar_bounds(x_sites[0]["fn"].support) if len(x_sites) == 1 else None,
        relaxed=any(is_relaxed(site["fn"]) for site in observed),
        enumerated=enumerated,
        values=tuple(
            words
            for site in observed
            if is_inside(site)
            for words in values_in_words(support_of(site["fn"]), site["value"].numel() // num_rows)
        ),
        constrained=dict(_static_support(site) for site in others if _has_static_support(site)),
        row_plates=frozenset(name for name, _ in row_frames),
        joint=_joint_draws(whole, {site["name"] for site in sites if is_inside(site)}),
        masked=tuple(
            name for name, site in whole.model.items() if not site["is_observed"] and mask_of(site) is not None
        ),
        enumerated_in_guide=tuple(
            name
            for name, site in whole.guide.items()
            if site["infer"].get("enumerate") == "parallel" and is_inside(site)
        ),
    )


def _equal(value: Tensor, x: Tensor) -> bool:
    return bool((value == x).all())


def _row_dim(row_frames: set[Frame], sites: Iterable[Site]) -> int | None:
    """The dimension that most sites have a plate of rows at."""
    counts = Counter(dim for site in sites for name, dim, _ in _vectorized(site) if (name, dim) in row_frames)
    return max(counts, key=lambda dim: (counts[dim], dim), default=None)


def _x_dim(site: Site) -> int:
    """The batch dimension of the rows at a site that observes x, (n, D)."""
    return site["fn"].event_dim - site["value"].dim()


def _joint_draws(run: _Run, inside: Iterable[str]) -> tuple[str, ...]:
    """The guide's auxiliary sites over several rows, where latents inside the row plate are functions of them."""
    auxiliary = [site for name, site in run.guide.items() if name not in run.model and not is_point_mass(site["fn"])]
    functions = [site for name, site in run.guide.items() if name in run.model and is_point_mass(site["fn"])]
    own = sum(site["value"].numel() for site in auxiliary if site["name"] in inside)
    if own >= sum(site["value"].numel() for site in functions if site["name"] in inside):
        return ()
    return tuple(site["name"] for site in auxiliary if site["name"] not in inside)


def _has_static_support(site: Site) -> bool:
    return is_constrained(site["fn"]) and is_static(support_of(site["fn"]))


def _static_support(site: Site) -> tuple[str, str]:
    support = support_of(site["fn"])
    return site["name"], "" if support is None else str(innermost(support))
