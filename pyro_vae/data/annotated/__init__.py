"""Rows with annotations: the files and objects of the package anndata, and what is written back to them."""
