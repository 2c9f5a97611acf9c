"""Picture data sets through torchvision, and the one place that knows how to import it concat a CPU-only torch."""

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
    """torchvision, also where its compiled operators do not load.

    Its wheels are built against one torch. Beside another (the CPU build from a package index) the compiled library
    does not load, and the import then fails because two operators have no schema, though data sets are pure Python.
    Only on that one error the two schemas are declared and the import tried again; declaring them where the real ones
    load would be an error.
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
    _OPERATORS.append(library)  # a library's definitions live as long as it does
    return importlib.import_module("torchvision")


def load_vision(name: str, root: str | Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A torchvision data set's training and test pictures, (60000, 784) and (10000, 784) uint8, each with its labels.

    Read from `root`, or from the cache folder, where they are downloaded if absent.
    """
    import_torchvision()
    datasets = importlib.import_module("torchvision.datasets")
    folder = Path(root) if root is not None else cache_folder()
    make = getattr(datasets, CLASSES[name])
    try:
        parts = [_read(make, folder, train, download=root is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        where = f"under {folder / CLASSES[name] / 'raw'}" if root else "in the cache, and it could not be downloaded"
        raise InputError(
            f"data set {name!r} is not {where} ({_first_line(error)}); give the folder that holds it (--data-root, "
            "root=…)"
        ) from error
    (train_x, train_y), (test_x, test_y) = parts
    return train_x, train_y, test_x, test_y


def _read(make: type, folder: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    try:
        pictures = make(folder, train=train, download=False)
    except RuntimeError:
        if not download:
            raise
        pictures = make(folder, train=train, download=True)
    return pictures.data.reshape(len(pictures.data), -1), pictures.targets


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
