"""Variational autoencoders as probabilistic programs.

A **program** is a pair: a model p(z) p_θ(x|z) and a guide q_φ(z|x), two Pyro functions. A VAE is made of three
**parts**, each a module whose forward returns a Pyro distribution: a prior, a likelihood, a guide. `fit` maximizes the
evidence lower bound by Pyro's SVI and `log_evidence` estimates log p(x) of each row, with errors and diagnostics; both
take any program, also two plain functions (`Program`). Numbers are nats per row, higher is better.

>>> import pyro_vae as pv
>>> data = pv.load_data("digits")
>>> vae = pv.VAE(
...     prior=pv.priors.StandardNormal(2),
...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2, 100, 64)),
...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(64, 100, 2 * 2)),
... )
>>> fitted = pv.fit(vae, data.train, valid=data.valid, epochs=3, seed=0)
>>> found = pv.log_evidence(vae, data.test, num_samples=100, seed=0)
>>> bool(found.log_px.mean() > found.elbo.mean())
True
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
