from .data_config import BINARIZE as BINARIZE
from .data_config import DataConfig as DataConfig
from .dataset import Dataset as Dataset
from .dataset import load_data as load_data
from .named_datasets import NAMED_DATASETS as NAMED_DATASETS
from .reference_measure import Measure as Measure
from .rows_given import RowsGiven as RowsGiven
from .rows_given import as_split as as_split
from .split import Split as Split

__all__ = [
    "BINARIZE",
    "NAMED_DATASETS",
    "DataConfig",
    "Dataset",
    "Measure",
    "RowsGiven",
    "Split",
    "as_split",
    "load_data",
]
