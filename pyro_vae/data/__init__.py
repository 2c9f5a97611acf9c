"""Data sets by name, from files and from memory: checked, split, and each with its reference measure."""

from pyro_vae.data.dataset import Dataset, as_split
from pyro_vae.data.named_datasets import NAMED_DATASETS, load_data
from pyro_vae.data.reference_measure import BINARIZE, Measure
from pyro_vae.data.split import Split

__all__ = ["BINARIZE", "NAMED_DATASETS", "Dataset", "Measure", "Split", "as_split", "load_data"]
