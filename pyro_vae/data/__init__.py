"""Data sets: by name, from the user's files, binarized or not, cut into splits, and checked at the door."""

from pyro_vae.data.dataset import Dataset, as_split
from pyro_vae.data.named_datasets import NAMED, load_data
from pyro_vae.data.reference_measure import BINARIZE, Measure
from pyro_vae.data.split import Split

__all__ = ["BINARIZE", "NAMED", "Dataset", "Measure", "Split", "as_split", "load_data"]
