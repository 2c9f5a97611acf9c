"""Likelihoods of a location and a scale for each value: real numbers, and grey levels as they are stored."""

import math

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import LogisticBins, stable_densities
from pyro_vae.errors import InputError
from pyro_vae.nets import init_output_bias, positive
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Distribution, Latents

SCALE_FLOOR = 0.01
INITIAL_SCALE = 0.5


class _LocScale(LikelihoodModule):
    """A location for each value from the network, and a scale that is fixed, learned, or from the network."""

    initial_scale = INITIAL_SCALE  # of one that is learned

    def __init__(self, net: nn.Module, scale: float | str, num_features: int | None, floor: float) -> None:
        super().__init__()
        choices = ("learned", "per-feature", "network")
        if isinstance(scale, str) and scale not in choices:
            raise InputError(f"scale is a positive number or one of {', '.join(choices)}; got {scale!r}")
        if not isinstance(scale, str) and not scale > 0:
            raise InputError(f"scale is a standard deviation and must be positive, got {scale}")
        if not floor > 0:
            raise InputError(f"floor must be positive, got {floor}: without one the likelihood is unbounded")
        if scale == "per-feature" and num_features is None:
            raise InputError("scale='per-feature' needs the number of features: give num_features=…")
        self.net, self.scale, self.floor = net, scale, floor
        self._initial_raw_scale = math.log(math.expm1(max(self.initial_scale - floor, 1e-3)))  # inverse of softplus
        if scale in ("learned", "per-feature"):
            size = () if scale == "learned" else (num_features or 0,)
            self.raw_scale = nn.Parameter(torch.full(size, self._initial_raw_scale))

    @classmethod
    def outputs_per_value(cls, scale: float | str = 1.0) -> int:
        """The number of outputs for each value: a location, and a raw scale where `scale` is `"network"`."""
        return 2 if scale == "network" else 1

    def loc_and_scale(self, z: Latents) -> tuple[Tensor, Tensor]:
        """The locations (..., D) at z, and the scales, which broadcast to them."""
        out: Tensor = self.net(z)
        if self.scale == "network":
            if out.shape[-1] % 2:
                raise InputError(
                    f"a scale from the network needs 2D outputs, locations and raw scales; got {out.shape[-1]}"
                )
            loc, raw = out.chunk(2, -1)
            return loc, positive(raw, self.floor)
        if isinstance(self.scale, str):
            return out, positive(self.raw_scale, self.floor)
        return out, out.new_tensor(self.scale)

    def init_from_data(self, mean: Tensor) -> None:
        raw = [torch.full_like(mean, self._initial_raw_scale)] if self.scale == "network" else []
        init_output_bias(self.net, torch.cat([mean, *raw]))


@part
class Normal(_LocScale):
    r"""Normal values around a network's output, $p(x|z) = \prod_d N(x_d; f_d(z), \sigma_d^2)$.

    Learned scales stay above `floor`, $\sigma = \mathrm{softplus}(\text{raw}) + \text{floor}$: where x can be predicted
    exactly (a constant or copied column) the density is otherwise unbounded, and each such column still adds
    −log(floor) − 0.92 nats. Raises `InputError` unless scale and floor are positive.

    Args:
        net: a network from (..., K) to (..., D), or to (..., 2D) with `scale="network"`.
        scale: the standard deviation σ, in the units of x: a fixed number (it sets the weight of the reconstruction
            against the KL term), `"learned"` (one), `"per-feature"` (one for each feature), or `"network"`, σ(z) from
            the network's second D outputs.
        num_features: the number D of features, for `scale="per-feature"`.
        floor: the least learned scale.

    >>> from pyro_vae.nets import mlp
    >>> Normal(mlp(2, 10, 3), scale=0.5)(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).shape
    torch.Size([4])
    >>> Normal(mlp(2, 10, 2 * 3), scale="network")(torch.zeros(4, 2)).event_shape
    torch.Size([3])
    """

    def __init__(
        self, net: nn.Module, scale: float | str = 1.0, num_features: int | None = None, floor: float = SCALE_FLOOR
    ) -> None:
        super().__init__(net, scale, num_features, floor)

    def forward(self, z: Latents) -> Distribution:
        values: Distribution = stable_densities.Normal(*self.loc_and_scale(z))
        p: Distribution = values.to_event(1)
        return p


@part
class StudentT(_LocScale):
    r"""Heavy-tailed values, for data with outliers, $p(x|z) = \prod_d t_\nu(x_d; f_d(z), \sigma_d)$.

    Its standard deviation is $\sigma\sqrt{\nu/(\nu - 2)}$.

    Args:
        net: a network as `Normal`'s.
        scale: the scale σ of the t distribution, as `Normal`'s.
        num_features: as `Normal`'s.
        floor: as `Normal`'s.
        df: ν, the degrees of freedom: a number above 2, so that mean and variance exist, or `"learned"`, one for all.

    >>> from pyro_vae.nets import mlp
    >>> StudentT(mlp(2, 10, 3), scale="learned")(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        net: nn.Module,
        scale: float | str = 1.0,
        num_features: int | None = None,
        floor: float = SCALE_FLOOR,
        df: float | str = 4.0,
    ) -> None:
        super().__init__(net, scale, num_features, floor)
        if (isinstance(df, str) and df != "learned") or (not isinstance(df, str) and not df > 2):
            raise InputError(f"df is a number above 2, so that mean and variance exist, or 'learned'; got {df!r}")
        self.df = df
        if df == "learned":
            self.raw_df = nn.Parameter(torch.tensor(2.0))

    def forward(self, z: Latents) -> Distribution:
        loc, scale = self.loc_and_scale(z)
        df = positive(self.raw_df, 2.01) if isinstance(self.df, str) else loc.new_tensor(self.df)
        p: Distribution = stable_densities.StudentT(df, loc, scale).to_event(1)
        return p


@part
class DiscretizedLogistic(_LocScale):
    r"""Grey levels as they are stored: $P(x_d|z)$ is a logistic density integrated over one of `levels` + 1 intervals.

    The likelihood of 8-bit pixels in IAF and PixelCNN++ (arXiv:1606.04934, arXiv:1701.05517): x is v/255, and P is a
    probability, not a density.

    Args:
        net: a network as `Normal`'s.
        scale: the scale of the logistic, whose standard deviation is π/√3 times that; as `Normal`'s.
        num_features: as `Normal`'s.
        floor: the least learned scale, by default a quarter of one of 256 levels.
        levels: the largest stored value.

    >>> from pyro_vae.nets import mlp
    >>> DiscretizedLogistic(mlp(2, 10, 784), scale="learned")(torch.zeros(3, 2)).log_prob(torch.zeros(3, 784)).shape
    torch.Size([3])
    """

    initial_scale = 0.1  # of levels in [0, 1]: at 0.5 all of them are about equally probable, and fits begin slowly

    def __init__(
        self,
        net: nn.Module,
        scale: float | str = "learned",
        num_features: int | None = None,
        floor: float = 1e-3,
        levels: int = 255,
    ) -> None:
        super().__init__(net, scale, num_features, floor)
        if levels < 1:
            raise InputError(f"levels is the largest stored value, one or more; got {levels}")
        self.levels = levels

    def forward(self, z: Latents) -> Distribution:
        bins: Distribution = LogisticBins(*self.loc_and_scale(z), self.levels)
        p: Distribution = bins.to_event(1)
        return p
