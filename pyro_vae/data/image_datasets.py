"""Image data sets through torchvision, and an import of torchvision that works with a CPU-only torch."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from pyro_vae.data.cache import cache_folder
from pyro_vae.errors import InputError

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_OPERATORS: list[torch.library.Library] = []


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


def load_vision(name: str, root: str | Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A torchvision data set's training and test images, (60000, 784) and (10000, 784) uint8, each with its labels.

    Read from `root`, or from the cache folder, where they are downloaded if absent.
    """
    import_torchvision()
    datasets = importlib.import_module("torchvision.datasets")
    folder = Path(root) if root is not None else cache_folder()
    dataset_class = getattr(datasets, CLASSES[name])
    try:
        splits = [_read(dataset_class, folder, train, download=root is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        where = f"under {folder / CLASSES[name] / 'raw'}" if root else "in the cache, and it could not be downloaded"
        raise InputError(
            f"data set {name!r} is not {where} ({_first_line(error)}); give the folder that holds it (--data-root, "
            "root=…)"
        ) from error
    (train_x, train_y), (test_x, test_y) = splits
    return train_x, train_y, test_x, test_y


def _read(dataset_class: type, folder: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    try:
        images = dataset_class(folder, train=train, download=False)
    except RuntimeError:
        if not download:
            raise
        images = dataset_class(folder, train=train, download=True)
    return images.data.reshape(len(images.data), -1), images.targets


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
