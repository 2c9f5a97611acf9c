"""Estimators with scikit-learn's interface.

>>> from sklearn.datasets import load_iris
>>> from sklearn.model_selection import GridSearchCV
>>> from pyro_vae.sklearn import VAEDensity
>>> vae = VAEDensity(epochs=3, hidden=(8,), random_state=0)
>>> search = GridSearchCV(vae, {"latent_dim": [1, 2]}, cv=2).fit(load_iris().data)
>>> search.best_estimator_.score_samples(load_iris().data[:3]).shape
(3,)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
