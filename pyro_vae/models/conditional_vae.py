"""The VAE of x given y, a label or conditions: p(z) p_θ(x|z, y) with guide q_φ(z|x, y)."""

from dataclasses import replace

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import is_recording
from pyro_vae.data import RowsGiven
from pyro_vae.data.columns import Schema
from pyro_vae.errors import InputError
from pyro_vae.flows import concat
from pyro_vae.models.vae import VAE
from pyro_vae.nets import ColumnEncoder
from pyro_vae.part_bases import masked_likelihood
from pyro_vae.programs.parameters import register_parameters
from pyro_vae.programs.row_inputs import accepts_row_inputs, bind_supported_kwargs
from pyro_vae.programs.sample_rows import sample
from pyro_vae.typing import Guide, Latents, Likelihood, Prior, Rows


@part
class ConditionalVAE(VAE):
    r"""A VAE of x given y, $p(x, z | y) = p(z)\, p_\theta(x | z, y)$ with guide $q_\phi(z | x, y)$.

    Kingma et al. (arXiv:1406.5298, their M2 with known labels); Sohn et al. (NeurIPS 2015). y is a label, 0 … C − 1,
    which comes from the data set or as `labels=`, and without which `sample` goes through the labels in turn; or
    conditions, columns of any kind (`load_data(…, given=…)`), which come from the data set or as `given=` (N, columns),
    NaN where one is missing. Both networks get y beside their own input: a label's indicator, or conditions as
    `nets.ColumnEncoder` brings them to the range of inputs, with the mask where some may be missing. The logarithms of
    exposures come last: `likelihoods.Columns` adds them to those of its counts' means.

    Raises `InputError` for a label outside 0 … C − 1, for rows without y, and for a missing condition that none of the
    columns may lack.

    Args:
        prior: the part p(z).
        likelihood: the part p(x|z, y), of z and y concatenated, K + E inputs.
        guide: the part q(z|x, y), of x and y, D + E inputs.
        num_labels: the number C of labels, where y is a label; then E is C.
        conditions: the columns of y (`data.schema.conditions`), where it is conditions; then E is
            `ConditionalVAE.num_inputs(conditions)`.

    >>> import pyro_vae as pv
    >>> vae = ConditionalVAE(
    ...     prior=pv.priors.StandardNormal(2),
    ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 10, 50, 64)),
    ...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(64 + 10, 50, 2 * 2)),
    ...     num_labels=10,
    ... )
    >>> data = pv.load_data("digits")
    >>> fitted = pv.fit(vae, data, epochs=2)
    >>> vae.sample(5, labels=torch.tensor([7, 7, 7, 7, 7])).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        guide: Guide,
        num_labels: int | None = None,
        conditions: Schema | None = None,
    ) -> None:
        VAE.__init__(self, prior, likelihood, guide)
        if (num_labels is None) == (conditions is None):
            raise InputError("y is a label or conditions: give num_labels, or conditions (data.schema.conditions)")
        if num_labels is not None and num_labels < 2:
            raise InputError(f"expected two labels or more, got {num_labels}")
        if conditions is not None and not conditions.modelled:
            raise InputError("no column is given: load the data with given=…, or take a VAE")
        self.num_labels, self.conditions = num_labels, conditions
        self.encoder: ColumnEncoder | None = None
        if conditions is not None:
            others = _without_exposures(conditions)
            self.encoder = ColumnEncoder(nn.Identity(), others, _may_lack_some(others))
            names = [column.name for column in conditions]
            exposures = torch.tensor([names.index(name) for name in conditions.exposures], dtype=torch.long)
            self.register_buffer("exposures", exposures, persistent=False)
            self.register_buffer(
                "others", torch.tensor([names.index(each.name) for each in others], dtype=torch.long), persistent=False
            )

    exposures: Tensor
    others: Tensor

    @staticmethod
    def num_inputs(conditions: Schema) -> int:
        """The number of inputs that conditions are to both networks.

        Args:
            conditions: the columns (`data.schema.conditions`).

        Returns:
            The number E; 0 for no columns.
        """
        others = _without_exposures(conditions)
        return ColumnEncoder.num_inputs(others, _may_lack_some(others)) + len(conditions.exposures)

    def model(  # type: ignore[override]  # y comes first
        self, x: Rows, labels: Tensor | None = None, mask: Tensor | None = None, given: Tensor | None = None
    ) -> None:
        register_parameters(self.prior, "prior")
        register_parameters(self.likelihood, "likelihood")
        register_parameters(self.encoder, "encoder")
        if labels is None and self.num_labels is not None:
            labels = torch.arange(len(x), device=x.device) % self.num_labels
        y = self._inputs(x, labels, given)
        with pyro.plate("data", len(x)):
            z = concat(pyro.sample("z", self.prior()), y)
            pyro.sample("x", masked_likelihood(self.likelihood, z, mask), obs=x)

    @accepts_row_inputs
    def guide(  # type: ignore[override]  # likewise
        self, x: Rows, labels: Tensor | None = None, given: Tensor | None = None, **row_inputs: object
    ) -> None:
        register_parameters(self.posterior, "posterior")
        register_parameters(self.encoder, "encoder")
        y = self._inputs(x, labels, given)
        with pyro.plate("data", len(x)):
            pyro.sample("z", bind_supported_kwargs(self.posterior)(concat(x, y), row_inputs))

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """As a VAE's; a prior that starts at rows gets them with labels, each in turn, or with conditions of 0.

        Args:
            mean: the data's mean (D,), for the likelihood.
            rows: some rows (n, D), for both.
        """
        if self.conditions is not None:
            y = rows.new_zeros(len(rows), self.num_inputs(self.conditions))
        else:
            assert self.num_labels is not None
            y = self._indicator(torch.arange(len(rows), device=rows.device) % self.num_labels, rows)
        VAE.init_from_data(self, mean, concat(rows, y))

    def _inputs(self, like: Tensor, labels: Tensor | None, given: Tensor | None) -> Tensor:
        """y as both networks get it, (…, E), of the type of x or z."""
        if self.conditions is None or self.encoder is None:
            if given is not None:
                raise InputError("this VAE is conditional on labels: conditions need ConditionalVAE(…, conditions=…)")
            if labels is None:
                raise InputError("a conditional VAE needs labels, which these rows do not have: give labels=…")
            return self._indicator(labels, like)
        names = [column.name for column in self.conditions]
        if given is None or given.shape[-1] != len(names):
            found = "do not have" if given is None else f"have as {given.shape[-1]} columns"
            raise InputError(
                f"this VAE needs the conditions {', '.join(names)}, which these rows {found}: give given=…"
            )
        exposure, given = given[..., self.exposures], given[..., self.others]
        known = ~given.isnan()
        if not self.encoder.masked and not is_recording() and not bool(known.all()):
            raise InputError("a condition is missing, which no row of the fit lacked: fill it")
        values = given.nan_to_num(nan=0.0).to(like.dtype)
        y: Tensor = self.encoder(torch.cat([values, known.to(like.dtype)], -1) if self.encoder.masked else values)
        return torch.cat([y, exposure.log().to(like.dtype)], -1) if len(self.conditions.exposures) else y

    def _indicator(self, labels: Tensor, like: Tensor) -> Tensor:
        assert self.num_labels is not None
        if not is_recording():
            self.check_labels(labels)
        return (labels.unsqueeze(-1) == torch.arange(self.num_labels, device=labels.device)).to(like.dtype)

    def check_labels(self, labels: Tensor) -> None:
        """Raise `InputError` for a label outside 0 … C − 1."""
        num = self.num_labels
        if num is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num:
            raise InputError(f"labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {num - 1}")

    @torch.no_grad()
    def decode(self, z: Latents, labels: Tensor | None = None, given: Tensor | None = None) -> Tensor:  # type: ignore[override]  # x depends on y too
        """E[x | z, y].

        Args:
            z: latents (..., K).
            labels: a label for each, (...,).
            given: or the conditions of each, (..., columns).

        Returns:
            Means (..., D).
        """
        return VAE.decode(self, concat(z, self._inputs(z, labels, given)))

    def sample(  # type: ignore[override]  # labels are a tensor here, and may be given by position
        self, n: int, seed: int | None = None, labels: Tensor | None = None, **row_inputs: object
    ) -> Tensor:
        """New rows given labels or conditions.

        Args:
            n: the number of rows.
            seed: a seed of the random numbers; None continues with torch's generator.
            labels: their labels (n,); by default each label in turn.
            **row_inputs: their conditions, `given` (n, columns), and further inputs, for a model that takes them.

        Returns:
            Rows (n, D).
        """
        return sample(self, n, seed=seed, row_inputs={"labels": labels, **row_inputs})

    def impute(self, x: RowsGiven, num_samples: int = 100, seed: int | None = 0) -> Rows:
        raise InputError("impute is not implemented for a conditional VAE: take evidence.impute_rows, or fill x first")


def _without_exposures(conditions: Schema) -> Schema:
    return replace(conditions, columns=[column for column in conditions if column.name not in conditions.exposures])


def _may_lack_some(conditions: Schema) -> bool:
    """Whether rows may lack a condition, so that the mask is an input too."""
    return any(column.has_missing for column in conditions)
