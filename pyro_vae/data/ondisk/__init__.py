"""Data sets larger than memory: their rows stay in `.npy` or `.parquet` files and are read as they are needed."""
