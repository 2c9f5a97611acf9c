"""A VAE of rows whose labels are known in part: the class is observed where it is known, and summed out elsewhere."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.flows import concat
from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.part_bases import masked_likelihood
from pyro_vae.programs.parameters import device_and_dtype, register_parameters, use_param_store
from pyro_vae.programs.row_inputs import accepts_row_inputs, bind_supported_kwargs, checked_batch
from pyro_vae.programs.sample_rows import sample
from pyro_vae.typing import Guide, Likelihood, Prior, Rows

IMPOSSIBLE = -1e9  # the logit of a class that is known to be another: finite, so that 0 · log 0 is 0


@part
class SemiSupervisedVAE(ConditionalVAE):
    r"""A VAE of x and a class y that is known for some rows: $p(y)\, p(z)\, p_\theta(x | z, y)$ with guide
    $q_\phi(y | x)\, q_\phi(z | x, y)$.

    Kingma et al., Semi-supervised learning with deep generative models (2014, arXiv:1406.5298), their M2. A row whose
    class is known has the ELBO of $\log p(x, y)$; in one of the others the class is summed out,
    $\sum_y q(y|x) [\mathcal{L}(x, y) - \log q(y|x)]$, exactly: `fit` takes `TraceEnum_ELBO`. The objective also has
    `classification_weight` times the mean of $\log q(y | x)$ over the rows whose class is known, for each of those rows
    $\alpha = $ `classification_weight` $\cdot N / N_\mathrm{known}$; no reported number has it.

    Labels 0 … C − 1, −1 where one is missing, come from the data set or as `labels=`. They are observed in training
    (`program.training`), as `fit` sets it. In evaluation mode the class is summed out whatever labels the rows have, so
    every score is of x alone, log p(x). p(y) is uniform until `fit` sets it to the frequencies of the training labels,
    each counted once more. Raises `InputError` for a label outside.

    Args:
        prior: the part p(z).
        likelihood: the part p(x|z, y), of z and the label's indicator concatenated, K + C inputs.
        guide: the part q(z|x, y), of x and the indicator, D + C inputs.
        classifier: the part q(y|x), of x, which returns a `Categorical` over the C classes.
        num_labels: the number C of classes.
        classification_weight: the weight of the mean log q(y|x) beside the mean ELBO; the paper's is
            0.1.

    >>> import pyro_vae as pv
    >>> vae = SemiSupervisedVAE(
    ...     prior=pv.priors.StandardNormal(2),
    ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 10, 50, 64)),
    ...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(64 + 10, 50, 2 * 2)),
    ...     classifier=pv.guides.CategoricalGuide(pv.nets.mlp(64, 50, 10)),
    ...     num_labels=10,
    ... )
    >>> data = pv.load_data("digits")
    >>> labels = torch.where(torch.arange(len(data.train)) < 100, data.train.labels, -1)
    >>> fitted = pv.fit(vae, data, labels=labels, epochs=2)
    >>> vae.predict_proba(data.test.x).shape, vae.sample(2, labels=torch.tensor([7, 7])).shape
    (torch.Size([180, 10]), torch.Size([2, 64]))
    """

    num_labels: int

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        guide: Guide,
        classifier: Guide,
        num_labels: int,
        classification_weight: float = 1.0,
    ) -> None:
        ConditionalVAE.__init__(self, prior, likelihood, guide, num_labels)
        if not 0 <= classification_weight < math.inf:
            raise InputError(f"classification_weight must be zero or more, got {classification_weight}")
        self.classifier, self.classification_weight = classifier, classification_weight
        self.log_class_probs: Tensor
        self.known_share: Tensor
        self.register_buffer("log_class_probs", torch.full((num_labels,), -math.log(num_labels)))
        self.register_buffer("known_share", torch.tensor(1.0))  # of the training rows, their class

    def init_from_labels(self, labels: Tensor) -> None:
        """Before a fit: set p(y) to the frequencies of the known labels, each counted once more, and their share.

        Args:
            labels: the labels (N,) of the training rows, −1 where one is missing.
        """
        known = labels[labels >= 0]
        counts = torch.bincount(known, minlength=self.num_labels) + 1
        self.log_class_probs.copy_((counts / counts.sum()).log())
        self.known_share.fill_(max(len(known), 1) / len(labels))

    def model(self, x: Rows, labels: Tensor | None = None, mask: Tensor | None = None) -> None:  # type: ignore[override]  # as that of a conditional VAE
        register_parameters(self.prior, "prior")
        register_parameters(self.likelihood, "likelihood")
        labels = self._observed(labels)
        log_probs = self.log_class_probs.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            if labels is not None:
                known = dist.Categorical(logits=log_probs).mask(labels >= 0)
                pyro.sample("label", known, obs=labels.clamp(min=0))
            y = pyro.sample("y", dist.Categorical(logits=self._given(log_probs, labels)))
            z = concat(pyro.sample("z", self.prior()), self._indicator(y, x))
            pyro.sample("x", masked_likelihood(self.likelihood, z, mask), obs=x)

    @accepts_row_inputs
    def guide(self, x: Rows, labels: Tensor | None = None, **row_inputs: object) -> None:  # type: ignore[override]  # likewise
        register_parameters(self.posterior, "posterior")
        register_parameters(self.classifier, "classifier")
        labels, logits = self._observed(labels), self._logits(x, row_inputs)
        with pyro.plate("data", len(x)):
            if labels is not None:
                log_q = logits.gather(-1, labels.clamp(min=0)[:, None])[:, 0] * (labels >= 0)
                weight = self.classification_weight / self.known_share
                pyro.factor("classification", -weight * log_q, has_rsample=True)  # the ELBO subtracts log q
            q = dist.Categorical(logits=self._given(logits, labels))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            pyro.sample("z", bind_supported_kwargs(self.posterior)(concat(x, self._indicator(y, x)), row_inputs))

    def _observed(self, labels: Tensor | None) -> Tensor | None:
        """The labels where they are observed: in training."""
        if labels is None or not self.training:
            return None
        self.check_labels(labels)
        return labels

    def _given(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """The logits (n, C) of the class given the labels: those of a known class allow no other."""
        if labels is None:
            return logits
        is_other = (labels >= 0)[:, None] & (labels[:, None] != torch.arange(self.num_labels, device=labels.device))
        return torch.where((labels < 0)[:, None], logits, torch.zeros_like(logits).masked_fill(is_other, IMPOSSIBLE))

    def _logits(self, x: Rows, row_inputs: dict[str, object]) -> Tensor:
        """log q(y|x), (n, C)."""
        q = bind_supported_kwargs(self.classifier)(x, row_inputs)
        if not isinstance(q, torch.distributions.Categorical) or q.logits.shape[-1] != self.num_labels:
            raise InputError(
                f"the classifier returned {type(q).__name__} of shape {tuple(q.batch_shape + q.event_shape)}, expected "
                f"a Categorical over {self.num_labels} classes; try pv.guides.CategoricalGuide"
            )
        logits: Tensor = q.logits
        return logits

    def check_labels(self, labels: Tensor) -> None:
        """Raise `InputError` for a label outside −1 … C − 1; −1 is a missing one."""
        if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < self.num_labels:
            raise InputError(
                f"labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {self.num_labels - 1}, and −1 "
                "(an empty cell) for one that is missing or none of these"
            )

    @torch.no_grad()
    def predict_proba(self, x: Rows, **row_inputs: object) -> Tensor:
        """q(y|x), the probability of each class under the guide.

        Args:
            x: rows (N, D).
            **row_inputs: their inputs, of which the classifier takes a `mask`.

        Returns:
            Probabilities (N, C).
        """
        batch = checked_batch(self, x, row_inputs)
        with use_param_store(self), evaluating(self):
            return self._logits(batch.x, dict(batch.row_inputs)).exp()

    def predict(self, x: Rows, **row_inputs: object) -> Tensor:
        """The most probable class under q(y|x).

        Args:
            x: rows (N, D).
            **row_inputs: their inputs.

        Returns:
            Classes (N,), from 0 to C − 1.
        """
        return self.predict_proba(x, **row_inputs).argmax(-1)

    def impute(self, x: RowsGiven, num_samples: int = 100, seed: int | None = 0) -> Rows:
        raise InputError(
            "impute is not implemented for a semi-supervised VAE: take pyro_vae.evidence.impute_rows.impute_rows, or "
            "the command pyro-vae impute"
        )

    @torch.no_grad()
    def sample(  # type: ignore[override]  # labels are a tensor here, and may be given by position
        self, n: int, seed: int | None = None, labels: Tensor | None = None, **row_inputs: object
    ) -> Tensor:
        """New rows, of given classes or of classes from p(y).

        Args:
            n: the number of rows.
            seed: a seed of the random numbers; None continues with torch's generator.
            labels: their classes (n,), −1 for one from p(y).
            **row_inputs: further inputs of the new rows, for a model that takes them.

        Returns:
            Rows (n, D).
        """
        if labels is None:
            return sample(self, n, seed=seed, row_inputs=row_inputs)
        if labels.shape != (n,):
            raise InputError(f"expected a label for each of the {n} draws, got labels of shape {tuple(labels.shape)}")
        self.check_labels(labels)
        like = torch.empty(0).to(*device_and_dtype(self))
        with use_param_store(self), seeded(seed), evaluating(self):
            drawn = dist.Categorical(logits=self.log_class_probs).sample((n,))
            y = torch.where(labels.to(drawn.device) < 0, drawn, labels.to(drawn.device))
            z = self.prior().sample((n,))
            x: Tensor = self.likelihood(concat(z, self._indicator(y, like))).sample()
        return x
