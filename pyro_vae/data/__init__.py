"""Data sets: by name, from the user's files, binarized or not, cut into splits, and checked at the door."""

from pyro_vae.data.dataset import Dataset, Split, as_split
from pyro_vae.data.load import NAMED, load_data
from pyro_vae.data.measure import BINARIZE, Measure

__all__ = ["BINARIZE", "NAMED", "Dataset", "Measure", "Split", "as_split", "load_data"]
