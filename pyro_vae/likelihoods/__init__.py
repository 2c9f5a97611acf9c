"""Likelihoods p(x|z): modules from z (..., K) to a distribution over x with event shape (D,).

`likelihood.masked(z, mask)` is the density of the observed values only.
"""

from pyro_vae.likelihoods.bernoulli import Bernoulli as Bernoulli
from pyro_vae.likelihoods.bernoulli import ContinuousBernoulli as ContinuousBernoulli
from pyro_vae.likelihoods.categorical import Categorical as Categorical
from pyro_vae.likelihoods.columns import Columns as Columns
from pyro_vae.likelihoods.counts import NegativeBinomial as NegativeBinomial
from pyro_vae.likelihoods.counts import Poisson as Poisson
from pyro_vae.likelihoods.loc_scale import DiscretizedLogistic as DiscretizedLogistic
from pyro_vae.likelihoods.loc_scale import Normal as Normal
from pyro_vae.likelihoods.loc_scale import StudentT as StudentT
from pyro_vae.likelihoods.multivariate_normal import MultivariateNormal as MultivariateNormal
