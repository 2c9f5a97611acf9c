"""The squared-error trap: a picture with a piece cut off, and the same picture moved by one pixel. Which is nearer?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Measure, RowsGiven, Split, as_split, load_data
from pyro_vae.data.image_shapes import ImageShape
from pyro_vae.diagnostics.latent_codes import Encoder, encode_rows, sample_codes
from pyro_vae.diagnostics.latent_interpolation import Whitening, whiten
from pyro_vae.diagnostics.latent_space_metrics import Share, share_of
from pyro_vae.errors import InputError
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.program_defaults import no_density_reason
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import bind_supported_kwargs
from pyro_vae.programs.traces import sample_sites
from pyro_vae.serialization import load
from pyro_vae.studies.picture_changes import cut, shift
from pyro_vae.typing import Distribution, PerRow, Program, is_program

SHARES = (0.05, 0.1, 0.2, 0.3)
SQUARED_ERROR, LATENT_DISTANCE, DIVERGENCE, LOG_PX = "squared error", "latent distance", "divergence of q", "log p(x)"
TrapRow = dict[str, float | dict[str, float]]  # `asked`, `removed`, `num_data`, and each measure's share and its error


@dataclass(frozen=True)
class ChangedPictures:
    """N pictures after a change, `x` (N, D), and how far each is from what it was.

    `mse` (N,) is the mean squared difference of pixels. `distance` (N,) is between posterior means, in standard
    deviations of the aggregate posterior. `divergence` (N,), nats, is KL(q ‖ q') + KL(q' ‖ q) between the two
    posteriors, None where the guide's are not of a kind for which torch knows it. `log_px` says how probable the
    changed pictures are, None where the program has no density or was not asked.
    """

    x: Tensor
    mse: PerRow
    distance: PerRow
    divergence: Tensor | None
    log_px: LogPx | None


@dataclass(frozen=True)
class SquaredErrorTrap:
    """N pictures `x` (N, D) of `image_shape`, the same moved by some pixels, and with pieces cut off.

    `moved` is (right, down), in pixels. `cuts` maps the share of the ink that was asked for to the cut pictures.
    `log_px` is of the pictures as they were, None where the program has no density or was not asked.
    """

    x: Tensor
    image_shape: ImageShape
    moved: tuple[int, int]
    log_px: LogPx | None
    shifted: ChangedPictures
    cuts: dict[float, ChangedPictures]

    def removed(self, share: float) -> float:
        """The share of the ink that a cut of this name took, on average over pictures: whole pixel rows go."""
        left = self.cuts[share].x.double().sum(1) / self.x.double().sum(1).clamp(min=1e-12)
        return float(1 - left.mean())

    def votes(self, share: float) -> dict[str, Tensor]:
        """What each measure says of each picture, (N,): 1 where the shifted one is nearer than the cut one, 0 where the
        cut one is, ½ for a tie."""
        cut_, shifted = self.cuts[share], self.shifted
        found = {
            SQUARED_ERROR: _below(shifted.mse, cut_.mse),
            LATENT_DISTANCE: _below(shifted.distance, cut_.distance),
        }
        if shifted.divergence is not None and cut_.divergence is not None:
            found[DIVERGENCE] = _below(shifted.divergence, cut_.divergence)
        if shifted.log_px is not None and cut_.log_px is not None:
            found[LOG_PX] = _below(cut_.log_px.log_px, shifted.log_px.log_px)
        return found

    def nearer(self, share: float) -> dict[str, Share]:
        """The share of pictures that each measure calls nearer to what they were when shifted than when cut so much.

        `squared error`, `latent distance`, `divergence of q`; for `log p(x)`, more probable when shifted than when cut.
        Ties count one half.
        """
        return {name: share_of(votes) for name, votes in self.votes(share).items()}

    def __repr__(self) -> str:
        said = "; ".join(
            f"{share:.0%} cut: " + ", ".join(f"{name} {found.value:.1%}" for name, found in self.nearer(share).items())
            for share in self.cuts
        )
        return f"SquaredErrorTrap({len(self.x)} pictures; the shifted one is nearer by {said})"


def _below(first: Tensor, second: Tensor) -> Tensor:
    return (first < second).double() + 0.5 * (first == second)


def measure_squared_error_trap(
    program: Program | Encoder,
    data: RowsGiven,
    *,
    image_shape: ImageShape | None = None,
    shares: Sequence[float] = SHARES,
    side: str = "top",
    right: int = 1,
    down: int = 0,
    num_samples: int = 100,
    seed: int | None = 0,
) -> SquaredErrorTrap:
    r"""Whether pixels, latents and log p(x) call a shifted picture nearer to the picture than one with a piece cut off.

    Three measures of each change $x \to x'$: $\frac1D |x - x'|^2$; the distance of posterior means, $|W (E_q[z|x] -
    E_q[z|x'])|$ with W the whitening of one draw of q(z|x) for each row (`sample_codes`), so that a latent which the
    guide does not use counts for nothing, and codes without a scale of their own get one; and $\log p(x')$, by
    `log_evidence`, which is no distance: it says how probable the changed picture is, whatever it was before. All that
    is changed is x as the model sees it.

    Raises `InputError` for rows that are no pictures, and where values are missing.

    Args:
        program: the fitted program, or an encoder without a model.
        data: images (N, D), a split, or a data set (its test split), of pixels that are not negative.
        image_shape: their height and width, in colour the channels before them, where the data does not say.
        shares: of the ink that is cut off, as in `cut`.
        side: where it is cut off.
        right: pixels by which `shift` moves to the right.
        down: pixels by which it moves down.
        num_samples: draws for each log p(x); 0 leaves it out.
        seed: of the draws.

    Returns:
        The changed pictures and their measures.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 32, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 32, 64)), guide)
    >>> found = measure_squared_error_trap(vae, data.valid, shares=[0.1], num_samples=20)
    >>> found.nearer(0.1)["squared error"].value < 0.1
    True
    """
    split = as_split(data, "test")
    shape = image_shape or split.image_shape
    if shape is None or split.measure.scale or split.mask is not None:
        raise InputError(
            "expected whole pictures whose pixels are not standardized, with a shape (image_shape=(height, width))"
        )
    if not shares or num_samples < 0:
        raise InputError(f"expected one share or more and num_samples from 0, got {list(shares)} and {num_samples}")
    compare = _Comparison(program, split, num_samples, seed)
    x = split.x
    return SquaredErrorTrap(
        x=x,
        image_shape=shape,
        moved=(right, down),
        log_px=compare.log_px(x),
        shifted=compare(shift(x, shape, right, down)),
        cuts={share: compare(cut(x, shape, share, side)) for share in shares},
    )


class _Comparison:
    """Changed pictures compared with the pictures as they were, by each measure."""

    def __init__(self, program: Program | Encoder, split: Split, num_samples: int, seed: int | None) -> None:
        self.program, self.split, self.num_samples, self.seed = program, split, num_samples, seed
        self.whitening = whiten(sample_codes(program, split, seed=seed))
        self.before = _Encoded(program, split, split.x, self.whitening, seed)

    def log_px(self, rows: Tensor) -> LogPx | None:
        if self.num_samples == 0 or not is_program(self.program) or no_density_reason(self.program):
            return None
        return log_evidence(self.program, _with(self.split, rows), self.num_samples, seed=self.seed)

    def __call__(self, rows: Tensor) -> ChangedPictures:
        after = _Encoded(self.program, self.split, rows, self.whitening, self.seed)
        return ChangedPictures(
            x=rows,
            mse=(rows - self.split.x).double().square().mean(1),
            distance=(after.code - self.before.code).norm(dim=1),
            divergence=after.divergence(self.before),
            log_px=self.log_px(rows),
        )


def _with(split: Split, rows: Tensor) -> Split:
    """The split with other values of x, as they are."""
    return replace(split, stored=rows, measure=Measure(given=True))


class _Encoded:
    """Rows as the program sees them: whitened posterior means, and q(z|x) where the guide has one site."""

    def __init__(
        self, program: Program | Encoder, split: Split, x: Tensor, spread: Whitening, seed: int | None
    ) -> None:
        with seeded(seed):
            codes = encode_rows(program, x, **split.row_inputs(slice(None)))
            self.q = _guide_of(program, _with(split, x))
        self.code = spread(codes.cpu().double())

    @torch.no_grad()
    def divergence(self, other: "_Encoded") -> Tensor | None:
        """KL(q ‖ q') + KL(q' ‖ q) of each row, (N,)."""
        if self.q is None or other.q is None:
            return None
        try:
            both = [torch.distributions.kl_divergence(*pair) for pair in ((self.q, other.q), (other.q, self.q))]
        except NotImplementedError:
            return None
        found = (both[0] + both[1]).double().cpu()
        return found if found.shape == self.code.shape[:1] else None


@torch.no_grad()
def _guide_of(program: Program | Encoder, split: Split) -> Distribution | None:
    """q(z|x) of all rows where it is one site and a density; else None."""
    if not is_program(program) or no_density_reason(program):
        return None
    with use_param_store(program), evaluating(program):
        scored = ScoredRows(program, split, None)
        batch = scored.batch(0, len(split))
        sites = list(
            sample_sites(
                poutine.trace(bind_supported_kwargs(program.guide)).get_trace(batch.x, batch.row_inputs)
            ).values()
        )
    return sites[0]["fn"] if len(sites) == 1 else None


def run_squared_error_trap(
    run: str | Path,
    *,
    data: str = "mnist",
    data_root: str | Path | None = None,
    split: str = "test",
    num_rows: int = 1000,
    num_samples: int = 100,
) -> tuple[list[TrapRow], SquaredErrorTrap]:
    """The study with the program of a saved run.

    Args:
        run: the run's folder.
        data: the name of a data set of images.
        data_root: the folder of torchvision's data sets.
        split: which of its rows.
        num_rows: the first so many of them.
        num_samples: draws for each log p(x); 0 leaves it out.

    Returns:
        For each size of the cut, how often each measure prefers the shift; and the pictures.
    """
    rows = load_data(data, root=data_root).split(split).head(num_rows)
    found = measure_squared_error_trap(load(run), rows, num_samples=num_samples)
    table: list[TrapRow] = []
    for share in found.cuts:
        row: TrapRow = {"asked": share, "removed": found.removed(share), "num_data": len(rows)}
        row |= {name: {"value": vote.value, "se": vote.se} for name, vote in found.nearer(share).items()}
        table.append(row)
    return table, found
