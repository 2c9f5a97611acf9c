"""Tables of parts: a new prior, likelihood, guide or network adds one row, and every contract test runs on it."""

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.data.columns import Column, Schema

K, D, SHAPE = 2, 4, (2, 2)
PRIORS = {  # name: prior(guide)
    "standard-normal": lambda guide: priors.StandardNormal(K),
    "normal": lambda guide: priors.Normal([0.5, -1.0], [2.0, 0.3]),
    "normal, one number": lambda guide: priors.Normal(0.5, [2.0, 0.3]),
    "normal, learned": lambda guide: priors.Normal([0.5, -1.0], [2.0, 0.3], learned=True),
    "laplace": lambda guide: priors.Laplace([0.5, -1.0], [1.0, 0.3]),
    "mixture": lambda guide: priors.MixtureOfNormals(K, 3),
    "vamp": lambda guide: priors.VampPrior(guide, 3, D),
    "flow": lambda guide: priors.FlowPrior(K, layers=2, hidden=8),
}
WITH_KINKS = {"laplace", "flow"}  # priors whose densities have kinks, where quadrature is less exact


def real_columns(size):
    """The schema of columns of real numbers."""
    return Schema(tuple(Column(f"c{i}", "real") for i in range(size)), coding="columns")


LIKELIHOODS = {  # name: (outputs of the network for each value, likelihood(network, number of values))
    "bernoulli": (1, lambda net, size: likelihoods.Bernoulli(net)),
    "continuous-bernoulli": (1, lambda net, size: likelihoods.ContinuousBernoulli(net)),
    "normal": (1, lambda net, size: likelihoods.Normal(net, scale=0.4)),
    "normal, learned": (1, lambda net, size: likelihoods.Normal(net, scale="learned")),
    "normal, per feature": (1, lambda net, size: likelihoods.Normal(net, scale="per-feature", num_features=size)),
    "normal, network": (2, lambda net, size: likelihoods.Normal(net, scale="network")),
    "multivariate-normal": (2, lambda net, size: likelihoods.MultivariateNormal(net, num_features=size)),
    "student-t": (1, lambda net, size: likelihoods.StudentT(net, scale="learned")),
    "student-t, learned df": (1, lambda net, size: likelihoods.StudentT(net, scale="learned", df="learned")),
    "discretized-logistic": (1, lambda net, size: likelihoods.DiscretizedLogistic(net, levels=15)),
    "categorical": (3, lambda net, size: likelihoods.Categorical(net, num_categories=3)),
    "poisson": (1, lambda net, size: likelihoods.Poisson(net)),
    "negative-binomial": (1, lambda net, size: likelihoods.NegativeBinomial(net, num_features=size)),
    "columns": (
        2,
        lambda net, size: likelihoods.Columns(net, real_columns(size)),
    ),  # others: test_columns_likelihood.py
}
GUIDES = {  # name: (outputs of the network, guide(network))
    "mean-field": (guides.MeanFieldNormal.outputs(K), lambda net: guides.MeanFieldNormal(net)),
    "full-rank": (guides.FullRankNormal.outputs(K), lambda net: guides.FullRankNormal(net, K)),
    "low-rank": (guides.LowRankNormal.outputs(K, rank=1), lambda net: guides.LowRankNormal(net, K, rank=1)),
    "flow": (guides.FlowGuide.outputs(K), lambda net: guides.FlowGuide(net, K, layers=2, hidden=8)),
    "iaf": (
        guides.FlowGuide.outputs(K, 3),
        lambda net: guides.FlowGuide(net, K, layers=2, hidden=8, kind="autoregressive", num_context=3),
    ),
    "mixture": (guides.MixtureGuide.outputs(K, 3), lambda net: guides.MixtureGuide(net, K, num_components=3)),
}
NETS = {  # name: (encoder(outputs), decoder(outputs for each value))
    "mlp": (lambda out: nets.mlp(D, 7, out), lambda maps: nets.mlp(K, 7, maps * D)),
    "deep": (
        lambda out: nets.mlp(D, 7, 6, out, activation="relu"),
        lambda maps: nets.mlp(K, 6, 7, maps * D, activation="relu"),
    ),
    "gated-mlp": (lambda out: nets.gated_mlp(D, 7, out), lambda maps: nets.gated_mlp(K, 7, maps * D)),
    "linear": (lambda out: nets.linear(D, out), lambda maps: nets.linear(K, maps * D)),
    "conv": (
        lambda out: nets.conv(SHAPE, 6, outputs=out),
        lambda maps: nets.conv_transpose(K, 6, image_shape=SHAPE, maps=maps),
    ),
    "resnet": (
        lambda out: nets.resnet(SHAPE, 6, outputs=out),
        lambda maps: nets.resnet_transpose(K, 6, image_shape=SHAPE, maps=maps),
    ),
}


def make_likelihood(name, net="mlp", size=D):
    maps, make = LIKELIHOODS[name]
    return make(NETS[net][1](maps) if size == D else nets.mlp(K, 7, maps * size), size)


def make_guide(name, net="mlp"):
    outputs, make = GUIDES[name]
    return make(NETS[net][0](outputs))
