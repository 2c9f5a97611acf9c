"""Variational autoencoders as probabilistic programs.

A **program** is a pair: a model p(z) p_θ(x|z) and a guide q_φ(z|x), two Pyro functions. A VAE is made of three
**parts**, each a module whose forward returns a Pyro distribution: a prior, a likelihood, a guide. `fit` climbs the
evidence lower bound by Pyro's SVI and `log_evidence` says how probable each row is, with errors and diagnostics; both
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

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["flows", "guides", "likelihoods", "nets", "priors"],
    submod_attrs={
        "data": ["Dataset", "Split", "load_data"],
        "errors": ["CollapseWarning", "DivergedError", "HandlersWarning", "InputError", "RankLostError", "RowsError"],
        "evidence.annealing": ["Annealed", "Sandwich", "annealed_evidence", "bidirectional"],
        "evidence.exact": ["Exact", "exact_evidence"],
        "study.aggregate": ["Aggregate", "aggregate"],
        "study.collapse": ["Collapsed", "Usage", "collapse", "usage"],
        "study.comparison": ["Fitted", "compare"],
        "study.encoders": ["examine", "fitted_encoder", "reconstruction_error"],
        "study.gaps": ["Gaps", "inference_gaps"],
        "evidence.importance": ["Evidence", "log_evidence"],
        "study.grids": ["density_on_grid"],
        "study.paths": ["interpolate"],
        "study.shifts": ["Shifts", "shifts"],
        "study.touching": ["Touching", "touching"],
        "study.nuts": ["Posterior", "nuts"],
        "study.paired": ["compare_evidence"],
        "study.scores": ["Scores", "score"],
        "study.two_sample": ["TwoSample", "two_sample"],
        "export": ["to_inference_data"],
        "inference.closed_form": ["fit_closed_form"],
        "inference.compiled": ["Compiled_ELBO"],
        "inference.coordinate_ascent": ["fit_cavi"],
        "inference.elbos": ["FreeBits_ELBO", "ImportanceWeighted_ELBO"],
        "inference.laplace": ["Laplace", "laplace"],
        "inference.monte_carlo_em": ["fit_mcem"],
        "inference.wake_sleep": ["ReweightedWakeSleep", "WakeSleep"],
        "inference.em": ["fit_em"],
        "inference.ranks": ["Ranks", "world"],
        "inference.refine": ["Refined", "refine"],
        "inference.result": ["FitResult"],
        "inference.svi": ["fit", "pick_device"],
        "models.autoencoder": ["Autoencoder"],
        "models.bayesian_mixture": ["BayesianGaussianMixture"],
        "models.bernoulli_mixture": ["BernoulliMixture"],
        "models.density": ["Density"],
        "models.gaussian_mixture": ["GaussianMixture"],
        "models.ppca": ["PPCA", "FactorAnalysis"],
        "models.program": ["Program"],
        "models.projection": ["PCA", "KernelPCA"],
        "models.vae": ["ConditionalVAE", "VAE"],
        "runs": ["load", "save"],
        "show.bounds": ["plot_components", "plot_curves", "plot_gap", "plot_planes", "plot_touching"],
        "show.collapse": ["plot_collapse"],
        "show.inside": ["Picture", "portraits"],
        "show.figures": ["plot_posterior"],
        "show.report": ["write_report"],
        "show.shifts": ["plot_shifts"],
        "show.tensorboard": ["TensorBoard"],
    },
)
