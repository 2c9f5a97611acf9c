"""The labels of a mixture's rows as a distribution, and where its components start."""

from collections.abc import Sequence

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor


class Labels(dist.Categorical):
    """Categories with log-probabilities by indexing: the gradient of all C labels of n rows is (n, C) in memory, where
    that of a gather is (C, n, C)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits)
        self.table = self.logits

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Labels":
        new: Labels = super().expand(torch.Size(batch_shape), self.__new__(Labels))
        new.table = self.table
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        shape, label = broadcast_shape(value.shape, self.batch_shape), value.long()
        if self.table.dim() == 1:
            return self.table[label].expand(shape)
        row = torch.arange(self.table.shape[0], device=label.device).expand(shape)
        return self.table[row, label.expand(shape)]


def find_centres(rows: Tensor, count: int, kind: str, seed: int) -> Tensor:
    """Initial centres by k-means++, k-means, or at random rows.

    Args:
        rows: the rows (n, D).
        count: the number C of centres.
        kind: k-means++, k-means or random.
        seed: of the random numbers.

    Returns:
        The centres (C, D).
    """
    from sklearn.cluster import KMeans, kmeans_plusplus

    values = rows.cpu().numpy()
    if kind == "random":
        return rows[
            torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(len(rows))[:count]).to(rows.device)
        ]
    if kind == "k-means":
        found = KMeans(count, n_init=1, random_state=seed % 2**32).fit(values)
        return torch.from_numpy(found.cluster_centers_).to(rows)
    return torch.from_numpy(kmeans_plusplus(values, count, random_state=seed % 2**32)[0]).to(rows)
