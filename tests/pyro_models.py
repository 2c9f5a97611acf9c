"""Models of Pyro's examples and tutorials, small and in our own words, with the sites, plates and arguments they have
there: what a user brings. Each comes with rows, and with its log p(x) by other means than this package's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.importance import vectorized_importance_weights
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import transform_to

import pyro_vae as pv
from pyro_vae.data import Measure
from pyro_vae.inference.fit_result import MAPEpoch

N = 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(out: Tensor) -> Any:
    loc, raw = out.chunk(2, -1)
    return dist.Normal(loc, nn.functional.softplus(raw) + 1e-2).to_event(1)


def rows(x: Tensor, labels: Tensor | None = None, **inputs: Tensor) -> pv.Split:
    return pv.Split("train", x, Measure(given=True), labels=labels, inputs=inputs)


def bits(columns: int, seed: int = 0) -> Tensor:
    logits = torch.randn(N, 2, generator=generator(seed)) @ (2 * torch.randn(2, columns, generator=generator(seed + 1)))
    return (torch.rand(N, columns, generator=generator(seed + 2)) < torch.sigmoid(logits)).float()


def by_pyro(draws: int, nesting: int = 1) -> Callable[[Any, pv.Split], Tensor]:
    """Pyro's own importance weights with the guide, row by row (they are summed over a plate of rows)."""

    def log_px(program: Any, split: pv.Split) -> Tensor:
        found = []
        for row in range(len(split)):
            one = slice(row, row + 1)
            weights, _, _ = vectorized_importance_weights(
                program.model,
                poutine.block(program.guide, hide=["classification_loss"]),  # a term of the loss, no density
                split.x[one],
                num_samples=draws,
                max_plate_nesting=nesting,
                normalized=False,
                **{name: value[one] for name, value in split.row_inputs(slice(None)).items()},
            )
            found.append(torch.logsumexp(weights, 0) - math.log(draws))
        return torch.stack(found).double()

    return log_px


def by_grid(log_joint: Callable[[Any, Tensor, pv.Split], Tensor], dim: int, side: int) -> Callable[..., Tensor]:
    """The sum of p(x, z) over a grid of z from −7 to 7 in each of its dimensions; `log_joint` gives (points, N)."""

    def log_px(program: Any, split: pv.Split) -> Tensor:
        line = torch.linspace(-7, 7, side)
        points = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
        joint = log_joint(program, points, split).double()
        return torch.logsumexp(joint, 0) + dim * math.log(float(line[1] - line[0]))

    return log_px


def standard_normal(z: Tensor) -> Tensor:
    return dist.Normal(0.0, 1.0).log_prob(z).sum(-1)


def side_by_side(*values: Tensor) -> Tensor:
    """Tensors concatenated along the last dimension, their batch dimensions broadcast."""
    batch = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
    return torch.cat([value.expand(*batch, value.shape[-1]) for value in values], -1)


class VAE(nn.Module):
    """examples/vae: "latent" and "obs" in the plate "data"."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = pv.nets.mlp(8, 16, 4), pv.nets.mlp(2, 16, 8)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = x.new_zeros(x.shape[0], 2), x.new_ones(x.shape[0], 2)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            probs = torch.sigmoid(self.decoder(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x.reshape(-1, 8))
            return probs

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", normal(self.encoder(x)))

    @staticmethod
    def log_joint(program, z, split):
        each = dist.Bernoulli(logits=program.owners[0].decoder(z)[:, None]).log_prob(split.x)
        return each.sum(-1) + standard_normal(z)[:, None]


class SemiSupervised(nn.Module):
    """examples/vae/ss_vae_M2 (Kingma et al., arXiv:1406.5298): the class y is drawn, or observed where it is given.

    The plate has no size, as there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_y, self.to_z = pv.nets.mlp(8, 16, 3), pv.nets.mlp(8 + 3, 16, 4)
        self.decoder = pv.nets.mlp(2 + 3, 16, 8)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), 2), xs.new_ones(len(xs), 2)).to_event(1))
            prior = xs.new_ones(len(xs), 3) / 3
            ys = pyro.sample("y", dist.OneHotCategorical(prior), obs=ys)
            logits = self.decoder(side_by_side(z, ys))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.to_y(xs)))
            pyro.sample("z", normal(self.to_z(side_by_side(xs, ys))))


def ss_log_joint(program, z, split):
    own, total = program.owners[0], []
    for label in range(3):
        y = torch.eye(3)[label].expand(len(z), 3)
        each = dist.Bernoulli(logits=own.decoder(torch.cat([z, y], -1))[:, None]).log_prob(split.x)
        total.append(each.sum(-1) + standard_normal(z)[:, None] - math.log(3))
    joint = torch.stack(total)
    given = split.inputs.get("ys")
    if given is None:
        return joint.logsumexp(0)
    return joint.gather(0, given.argmax(-1).expand(1, len(z), -1))[0]


class CVAE(nn.Module):
    """examples/cvae (Sohn et al., 2015): what is missing of a picture, ys, given the quarter xs that is there."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.recognition = pv.nets.mlp(3, 16, 4), pv.nets.mlp(3 + 5, 16, 4)
        self.generation = pv.nets.mlp(2, 16, 5)

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        with pyro.plate("data", len(xs)):
            z = pyro.sample("z", normal(self.prior(xs)))
            probs = torch.sigmoid(self.generation(z))
            if ys is None:
                return pyro.deterministic("y", probs)
            return pyro.sample("y", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=ys)

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            out = self.prior(xs) if ys is None else self.recognition(torch.cat([xs, ys], -1))
            pyro.sample("z", normal(out))


def cvae_log_joint(program, z, split):
    own = program.owners[0]
    prior = normal(own.prior(split.x)).log_prob(z[:, None])
    return dist.Bernoulli(logits=own.generation(z)[:, None]).log_prob(split.inputs["ys"]).sum(-1) + prior


class ProdLDA(nn.Module):
    """The topic-model tutorial (Srivastava & Sutton, arXiv:1703.01488): counts with the batch's largest total."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = pv.nets.mlp(8, 16, 4), nn.Linear(2, 8, bias=False)

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = docs.new_zeros(docs.shape[0], 2), docs.new_ones(docs.shape[0], 2)
            theta = torch.softmax(pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1)), -1)
            words = torch.softmax(self.decoder(theta), -1)
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, words), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("logtheta", normal(self.encoder(docs)))

    @staticmethod
    def log_joint(program, z, split):
        words = torch.log_softmax(program.owners[0].decoder(torch.softmax(z, -1)), -1)
        constant = torch.lgamma(split.x.sum(-1) + 1) - torch.lgamma(split.x + 1).sum(-1)
        return words @ split.x.T + constant + standard_normal(z)[:, None]


T, NOTES = 4, 3


class DMM(nn.Module):
    """examples/dmm (Krishnan et al., arXiv:1609.09869): sequences of different lengths, masked, annealed.

    A row is a sequence, flat; its length and mask are its own inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transition, self.emission = pv.nets.mlp(1, 8, 2), pv.nets.mlp(1, 8, NOTES)
        self.rnn, self.combiner = nn.GRU(NOTES, 6, batch_first=True), pv.nets.mlp(1 + 6, 8, 2)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def model(self, mini_batch, mini_batch_mask, annealing_factor=1.0):
        sequences = mini_batch.reshape(-1, T, NOTES)
        pyro.module("dmm", self)
        z = self.z_0.expand(len(sequences), 1)
        with pyro.plate("z_minibatch", len(sequences)):
            for t in pyro.markov(range(1, T + 1)):
                with poutine.scale(scale=annealing_factor):
                    prior = normal(self.transition(z)).base_dist
                    z = pyro.sample(f"z_{t}", prior.mask(mini_batch_mask[:, t - 1 : t]).to_event(1))
                observed = dist.Bernoulli(logits=self.emission(z)).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", observed, obs=sequences[:, t - 1])

    def guide(self, mini_batch, mini_batch_mask, annealing_factor=1.0):
        sequences = mini_batch.reshape(-1, T, NOTES)
        pyro.module("dmm", self)
        backwards, _ = self.rnn(sequences.flip(1))
        z = self.z_q_0.expand(len(sequences), 1)
        with pyro.plate("z_minibatch", len(sequences)):
            for t in pyro.markov(range(1, T + 1)):
                hidden = backwards[:, T - t].expand(*z.shape[:-1], 6)
                q = normal(self.combiner(torch.cat([z, hidden], -1))).base_dist
                with poutine.scale(scale=annealing_factor):
                    z = pyro.sample(f"z_{t}", q.mask(mini_batch_mask[:, t - 1 : t]).to_event(1))


def dmm_log_px(program, split):
    """The forward recursion over a grid of each z_t: p(x_{1:t}, z_t) from p(x_{1:t−1}, z_{t−1})."""
    own, line = program.owners[0], torch.linspace(-7, 7, 701)[:, None]
    step = math.log(float(line[1] - line[0]))
    sequences, mask = split.x.reshape(-1, T, NOTES), split.inputs["mini_batch_mask"]
    emitted = [dist.Bernoulli(logits=own.emission(line)[:, None]).log_prob(sequences[:, t]).sum(-1) for t in range(T)]
    moved = normal(own.transition(line)).log_prob(line[:, None]).double()  # (to, from)
    alpha = normal(own.transition(own.z_0[None])).log_prob(line)[:, None].double() + emitted[0]
    for t in range(1, T):
        after = torch.logsumexp(moved[:, :, None] + alpha, 1) + step + emitted[t]
        alpha = torch.where(mask[:, t].bool(), after, alpha)
    return torch.logsumexp(alpha, 0) + step


def gmm_with_globals():
    """The tutorial on mixtures of normals: global weights, means and scale at a point (MAP), the assignments summed."""

    @config_enumerate
    def model(data):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data[:, 0])

    return pv.Program(model, AutoDelta(poutine.block(model, expose=["weights", "locs", "scale"])))


def gmm():
    """The same with parameters in place of the global latents."""

    @config_enumerate
    def model(data):
        weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
        locs, scale = pyro.param("locs", torch.tensor([-1.0, 1.0])), pyro.param("scale", torch.tensor(0.7))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data[:, 0])

    def guide(data):
        pass

    return pv.Program(model, guide)


def gmm_log_px(program, split):
    own = dict(program.named_parameters())
    weights = transform_to(dist.constraints.simplex)(own["pyro.param/weights"])
    each = dist.Normal(own["pyro.param/locs"], own["pyro.param/scale"]).log_prob(split.x)
    return torch.logsumexp(each + weights.log(), -1).double()


def bayesian_regression():
    """The tutorial on Bayesian regression: a linear layer with random weights, all global."""

    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

        def forward(self, x, y=None):
            sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
            return mean

    model = Regression()
    return pv.Program(model, AutoDiagonalNormal(model))


TIMES = torch.linspace(-1, 1, 5)


class HierarchicalRegression(nn.Module):
    """A line for each row, its intercept and slope the row's latents, drawn around common ones."""

    def model(self, x):
        loc = pyro.param("mean", torch.tensor([0.5, -0.5]))
        scale = pyro.param("deviation", torch.tensor([1.0, 0.7]), constraint=dist.constraints.positive)
        noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("groups", len(x)):
            intercept = pyro.sample("intercept", dist.Normal(loc[0], scale[0]))
            slope = pyro.sample("slope", dist.Normal(loc[1], scale[1]))
            line = intercept[..., None] + slope[..., None] * TIMES
            pyro.sample("x", dist.Normal(line, noise).to_event(1), obs=x)


def hierarchical_regression():
    model = HierarchicalRegression().model
    return pv.Program(model, AutoNormal(model))


def line_log_px(program, split):
    own = {name.removeprefix("pyro.param/"): value for name, value in program.named_parameters()}
    design = torch.stack([torch.ones(5), TIMES], -1)
    covariance = design @ torch.diag(own["deviation"].exp() ** 2) @ design.T + own["noise"].exp() ** 2 * torch.eye(5)
    return dist.MultivariateNormal(design @ own["mean"], covariance).log_prob(split.x).double()


class FactorAnalysis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loading = nn.Parameter(torch.randn(2, 5, generator=generator(5)))
        self.mean, self.log_scale = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
        self.encoder = nn.Linear(5, 4)

    def model(self, x):
        pyro.module("factor_analysis", self)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean + z @ self.loading, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", normal(self.encoder(x)))


def factor_log_px(program, split):
    own = program.owners[0]
    covariance = own.loading.T @ own.loading + torch.diag(own.log_scale.exp() ** 2)
    return dist.MultivariateNormal(own.mean, covariance).log_prob(split.x).double()


class SCANVI(nn.Module):
    """examples/scanvi (Xu et al., 2021): counts of genes, three latents and a label, known for all rows or for none."""

    def __init__(self) -> None:
        super().__init__()
        self.z2_decoder, self.x_decoder = pv.nets.mlp(2 + 3, 8, 4), pv.nets.mlp(2, 8, 12)
        self.z2l_encoder, self.classifier = pv.nets.mlp(6, 8, 4 + 2), pv.nets.mlp(2, 8, 3)
        self.z1_encoder = pv.nets.mlp(2 + 3, 8, 4)

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(6), constraint=dist.constraints.positive)
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, x.new_ones(2)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)), obs=y)
            z2 = pyro.sample("z2", normal(self.z2_decoder(side_by_side(z1, y))))
            size = pyro.sample("l", dist.LogNormal(x.new_full((1,), 2.0), 0.3).to_event(1))
            gate, share = self.x_decoder(z2).chunk(2, -1)
            logits = (size * torch.softmax(share, -1) + 1e-4).log() - theta.log()
            counts = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=theta, logits=logits)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("batch", len(x)):
            out = self.z2l_encoder(torch.log1p(x))
            z2 = pyro.sample("z2", normal(out[..., :4]))
            loc, raw = out[..., 4:].chunk(2, -1)
            pyro.sample("l", dist.LogNormal(2.0 + loc, nn.functional.softplus(raw) + 1e-2).to_event(1))
            logits = self.classifier(z2)
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=logits))
            else:
                classified = dist.OneHotCategorical(logits=logits).log_prob(y)
                pyro.factor("classification_loss", -5.0 * classified, has_rsample=False)
            pyro.sample("z1", normal(self.z1_encoder(side_by_side(z2, y))))


def flow_vae():
    """A VAE with a neural spline flow of zuko's as its prior, by `pyro.contrib.zuko`."""
    import zuko
    from pyro.contrib.zuko import ZukoToPyro

    class FlowVAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prior = zuko.flows.NSF(2, transforms=1, bins=4, hidden_features=(8,))
            self.encoder, self.decoder = pv.nets.mlp(8, 16, 4), pv.nets.mlp(2, 16, 8)

        def model(self, x):
            pyro.module("flow_vae", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", ZukoToPyro(self.prior()))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(self.encoder(x)))

    own = FlowVAE()
    return pv.Program(own.model, own.guide)


def flow_log_joint(program, z, split):
    own = program.owners[0]
    each = dist.Bernoulli(logits=own.decoder(z)[:, None]).log_prob(split.x).sum(-1)
    return each + own.prior().log_prob(z)[:, None]


class SparseGammaDEF(nn.Module):
    """examples/sparse_gamma_def (Ranganath et al., arXiv:1411.2581): gamma latents, the weights global."""

    def model(self, x):
        with pyro.plate("w_top_plate", 2 * 3):
            w_top = pyro.sample("w_top", dist.Gamma(0.5, 0.5)).reshape(2, 3)
        with pyro.plate("w_bottom_plate", 3 * 4):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(0.5, 0.5)).reshape(3, 4)
        with pyro.plate("data", x.shape[0]):
            z_top = pyro.sample("z_top", dist.Gamma(0.5, 0.5).expand([2]).to_event(1))
            z_bottom = pyro.sample("z_bottom", dist.Gamma(0.5, 0.5 / (z_top @ w_top + 1e-3)).to_event(1))
            pyro.sample("obs", dist.Poisson(z_bottom @ w_bottom + 1e-3).to_event(1), obs=x)


def sparse_gamma_def():
    model = SparseGammaDEF().model
    return pv.Program(model, AutoNormal(model))


class MixedEffects(nn.Module):
    """Counts at several times with an effect of the row: Poisson(exp(a + b t + u_i)), u_i ~ N(0, s²)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = pv.nets.mlp(5 + 5, 8, 2)

    def model(self, counts, times):
        a, b = pyro.param("a", torch.tensor(0.5)), pyro.param("b", torch.tensor(0.3))
        s = pyro.param("s", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("subjects", len(counts)):
            effect = pyro.sample("effect", dist.Normal(0.0, s))
            rate = (a + b * times + effect[..., None]).exp()
            pyro.sample("counts", dist.Poisson(rate).to_event(1), obs=counts)

    def guide(self, counts, times):
        pyro.module("encoder", self.encoder)
        with pyro.plate("subjects", len(counts)):
            loc, raw = self.encoder(torch.cat([counts.log1p(), times], -1)).unbind(-1)
            pyro.sample("effect", dist.Normal(loc, nn.functional.softplus(raw) + 1e-2))


def mixed_log_joint(program, u, split):
    own = {name.removeprefix("pyro.param/"): value for name, value in program.named_parameters()}
    rate = (own["a"] + own["b"] * split.inputs["times"] + u[:, None]).exp()
    prior = dist.Normal(0.0, own["s"].exp()).log_prob(u)
    return dist.Poisson(rate).log_prob(split.x).sum(-1) + prior


class HMM(nn.Module):
    """examples/hmm, model_1: rows are sequences of their own lengths, tones in a plate inside theirs."""

    @config_enumerate
    def model(self, sequences, lengths):
        tones = sequences.reshape(-1, T, NOTES)
        simplex, unit = dist.constraints.simplex, dist.constraints.unit_interval
        probs_x = pyro.param("probs_x", 0.6 * torch.eye(2) + 0.2, constraint=simplex)
        probs_y = pyro.param("probs_y", torch.tensor([[0.2, 0.3, 0.6], [0.7, 0.5, 0.1]]), constraint=unit)
        with pyro.plate("sequences", len(tones), dim=-2):
            x, tones_plate = 0, pyro.plate("tones", NOTES, dim=-1)
            for t in pyro.markov(range(T)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                    with tones_plate as tone:
                        pyro.sample(
                            f"y_{t}",
                            dist.Bernoulli(probs_y[x.squeeze(-1), tone] if x.dim() < 2 else probs_y[x, tone]),
                            obs=tones[:, t],
                        )

    def guide(self, sequences, lengths):
        pass


def hmm_log_px(program, split):
    """The forward recursion over the hidden states."""
    own = {name.removeprefix("pyro.param/"): value for name, value in program.named_parameters()}
    probs_x = transform_to(dist.constraints.simplex)(own["probs_x"]).log().double()
    probs_y = torch.sigmoid(own["probs_y"]).double()
    tones, lengths = split.x.reshape(-1, T, NOTES).double(), split.inputs["lengths"]
    emitted = [dist.Bernoulli(probs_y).log_prob(tones[:, t, None]).sum(-1) for t in range(T)]
    alpha = probs_x[0] + emitted[0]
    for t in range(1, T):
        after = torch.logsumexp(alpha[:, :, None] + probs_x, 1) + emitted[t]
        alpha = torch.where((t < lengths)[:, None], after, alpha)
    return torch.logsumexp(alpha, -1)


def of_module(kind: type[nn.Module], guide: Callable[[Any], Any] | None = None) -> Callable[[], pv.Program]:
    def build() -> pv.Program:
        own = kind()
        return pv.Program(own.model, own.guide if guide is None else guide(own.guide))

    return build


@dataclass
class Case:
    """A model, rows for it, and what is to be seen.

    Attributes:
        build: makes the program.
        split: its rows.
        log_px: log p(x) of each row (N,) by other means; a string is what the refusal says.
        error: the largest error of a row's log p(x), nats.
        draws: of `log_evidence`.
        fit: arguments of `fit`.
        enumerated: whether training sums latents out (`TraceEnum_ELBO`).
        encodes: whether rows have codes; a string is what the refusal says.
        annealed: whether it has continuous latents to anneal; a string is what the refusal says.
        reads_x: whether the model reads x besides observing it, so that draws need it.
        tutorial: where Pyro has it.
    """

    build: Callable[[], pv.Program]
    split: pv.Split
    log_px: Callable[[Any, pv.Split], Tensor] | str
    error: float = 0.05
    draws: int = 4000
    fit: dict[str, Any] = field(default_factory=dict)
    enumerated: bool = False
    encodes: bool | str = True
    annealed: bool | str = True
    reads_x: bool = False
    tutorial: str = ""


def sequences(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Sequences (N, T · NOTES), zero after their ends, and their lengths (N,)."""
    lengths = torch.randint(1, T + 1, (N,), generator=generator(seed))
    tones = bits(T * NOTES, seed).reshape(N, T, NOTES)
    return (tones * (torch.arange(T) < lengths[:, None])[..., None]).reshape(N, -1), lengths


SEQUENCES, LENGTHS = sequences()
SEQUENCE_MASK = torch.arange(T) < LENGTHS[:, None]
COUNTS = torch.poisson(3 * torch.rand(N, 8, generator=generator(8)) ** 2, generator=generator(9))
LABELS = torch.eye(3)[torch.arange(N) % 3]
KINDS = torch.eye(3)[COUNTS[:, :6].reshape(N, 3, 2).sum(-1).argmax(-1)]
WHOLE = {"batch_size": N}
GLOBAL = "global latent couples the rows"
AT_A_POINT = f"{GLOBAL}|puts all of q at one point"

CASES = {
    "vae": Case(of_module(VAE), rows(bits(8)), by_grid(VAE.log_joint, 2, 281), tutorial="examples/vae"),
    "ss_vae M2, no labels": Case(
        of_module(SemiSupervised, lambda guide: config_enumerate(guide, "parallel", expand=True)),
        rows(bits(8)),
        by_grid(ss_log_joint, 2, 281),
        enumerated=True,
        annealed="takes values in",
        tutorial="examples/vae/ss_vae_M2",
    ),
    "ss_vae M2, all labels": Case(
        of_module(SemiSupervised), rows(bits(8), ys=LABELS), by_grid(ss_log_joint, 2, 281), tutorial="the same"
    ),
    "cvae": Case(
        of_module(CVAE),
        rows(bits(3), ys=bits(5)),
        by_grid(cvae_log_joint, 2, 281),
        reads_x=True,
        tutorial="examples/cvae",
    ),
    "ProdLDA": Case(
        of_module(ProdLDA),
        rows(COUNTS),
        by_grid(ProdLDA.log_joint, 2, 281),
        error=0.1,
        reads_x=True,
        tutorial="tutorial prodlda",
    ),
    "DMM": Case(
        of_module(DMM),
        rows(SEQUENCES, mini_batch_mask=SEQUENCE_MASK),
        dmm_log_px,
        annealed="has a mask",
        tutorial="examples/dmm",
    ),
    "mixture of normals": Case(
        gmm,
        rows(torch.randn(N, 1, generator=generator(4)) + 2 * (torch.arange(N) % 2)[:, None]),
        gmm_log_px,
        error=1e-4,
        enumerated=True,
        encodes="draws no latent for each row",
        annealed="draws no latent|takes values|discrete",
        tutorial="tutorial gmm",
    ),
    "mixture of normals, global latents at a point": Case(
        gmm_with_globals,
        rows(torch.randn(N, 1, generator=generator(4)) + 2 * (torch.arange(N) % 2)[:, None]),
        AT_A_POINT,
        enumerated=True,
        encodes="draws no latent for each row",
        annealed=GLOBAL,
        tutorial="tutorial gmm",
    ),
    "Bayesian regression": Case(
        bayesian_regression,
        rows(torch.randn(N, 2, generator=generator(6)), y=torch.randn(N, generator=generator(7))),
        GLOBAL,
        encodes="draws no latent for each row",
        annealed=GLOBAL,
        reads_x=True,
        tutorial="tutorial bayesian_regression",
    ),
    "hierarchical regression": Case(
        hierarchical_regression,
        rows(torch.randn(N, 1, generator=generator(6)) + torch.randn(N, 5, generator=generator(7))),
        line_log_px,
        fit={**WHOLE, "epochs": 300, "learning_rate": 0.05},
        error=0.15,
        tutorial="AutoNormal over row latents",
    ),
    "factor analysis": Case(
        of_module(FactorAnalysis), rows(torch.randn(N, 5, generator=generator(6))), factor_log_px, error=0.1
    ),
    "scanvi, no labels": Case(
        of_module(SCANVI),
        rows(COUNTS[:, :6]),
        by_pyro(10_000),
        error=0.5,
        draws=10_000,
        fit={"epochs": 200},
        annealed="takes values in",
        tutorial="examples/scanvi",
    ),
    "scanvi, all labels": Case(
        of_module(SCANVI),
        rows(COUNTS[:, :6], y=KINDS),
        by_pyro(10_000),
        error=0.5,
        draws=10_000,
        fit={"epochs": 300},
        tutorial="the same",
    ),
    "flow prior by zuko": Case(flow_vae, rows(bits(8)), by_grid(flow_log_joint, 2, 281), tutorial="pyro.contrib.zuko"),
    "sparse gamma DEF": Case(
        sparse_gamma_def, rows(COUNTS[:, :4]), GLOBAL, fit=WHOLE, annealed=GLOBAL, tutorial="examples/sparse_gamma_def"
    ),
    "mixed-effects counts": Case(
        of_module(MixedEffects),
        rows(COUNTS[:, :5], times=TIMES.expand(N, 5).contiguous()),
        by_grid(mixed_log_joint, 1, 4001),
    ),
    "HMM": Case(
        of_module(HMM),
        rows(SEQUENCES, lengths=LENGTHS),
        hmm_log_px,
        error=1e-4,
        enumerated=True,
        encodes="draws no latent for each row",
        annealed="draws no latent|discrete|has a mask",
        tutorial="examples/hmm, model_1",
    ),
}


def made(case: Case) -> pv.Program:
    """A new program with weights of seed 0."""
    torch.manual_seed(0)
    return case.build()


def elbo_and_pyros(case: Case) -> tuple[float, float]:
    """The ELBO that a fit reports of its first step, and Pyro's own of the same rows, weights and noise, nats."""
    program, split = made(case), case.split
    config = pv.TrainConfig(epochs=1, batch_size=N, learning_rate=1e-9)
    pv.fit(program, split, config)  # the parameters exist, and are hardly changed
    record = pv.fit(program, split, config, seed=3).history[0]
    seed = replace(config, seed=3).epoch_seed(0)
    order = torch.randperm(N, generator=generator(seed))
    if case.fit.get("batch_size") == N:  # a guide with parameters for each row
        order = torch.arange(N)
    inputs = {name: value[order] for name, value in split.row_inputs(slice(None)).items()}
    pyro.set_rng_seed(seed)
    loss = TraceEnum_ELBO(max_plate_nesting=2) if case.enumerated else Trace_ELBO()
    guide = poutine.block(program.guide, hide=["classification_loss"])  # in the objective, and in no reported number
    expected = -loss.loss(program.model, guide, split.x[order], **inputs) / N
    return record.log_joint if isinstance(record, MAPEpoch) else record.elbo, expected
