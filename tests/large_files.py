"""Files of rows for the tests of data that stay on disk."""

import numpy as np
import torch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bytes_file(path, num_rows=103, num_columns=10):
    values = np.random.default_rng(0).integers(0, 256, (num_rows, num_columns), dtype=np.uint8)
    np.save(path, values)
    return torch.from_numpy(values)


def line_file(path, num_rows=3000):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num_rows, 1)) @ rng.normal(size=(1, 5)) + 0.2 * rng.normal(size=(num_rows, 5))
    np.save(path, rows[rows[:, 0].argsort()].astype(np.float32))  # sorted, so that neighbours in the file are alike
