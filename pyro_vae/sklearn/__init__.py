"""Estimators with scikit-learn's interface.

>>> from sklearn.datasets import load_iris
>>> from sklearn.model_selection import cross_val_score
>>> from pyro_vae.sklearn import VAEDensity
>>> vae = VAEDensity(epochs=3, hidden=(8,), random_state=0)
>>> cross_val_score(vae, load_iris().data, cv=2).shape
(2,)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
