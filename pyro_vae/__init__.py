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

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["flows", "guides", "likelihoods", "nets", "priors"],
    submod_attrs={
        "comparison.comparison_table": ["Fitted", "compare"],
        "comparison.paired_differences": ["compare_evidence"],
        "data": ["Dataset", "Split", "load_data"],
        "diagnostics.aggregate_posterior": ["Aggregate", "aggregate"],
        "diagnostics.anomaly_scores": ["Scores", "score"],
        "diagnostics.density_grid": ["density_on_grid"],
        "diagnostics.inference_gaps": ["Gaps", "inference_gaps"],
        "diagnostics.latent_interpolation": ["interpolate"],
        "diagnostics.latent_usage": ["LatentUsage", "latent_usage"],
        "diagnostics.two_sample_test": ["TwoSample", "two_sample"],
        "distributed": ["ProcessGroup", "process_group"],
        "errors": ["CollapseWarning", "DivergedError", "HandlersWarning", "InputError", "RankLostError", "RowsError"],
        "evidence.annealed_importance": ["Annealed", "Sandwich", "annealed_evidence", "bidirectional"],
        "evidence.arviz_export": ["to_inference_data"],
        "evidence.exact_log_px": ["Exact", "exact_evidence"],
        "evidence.importance_sampling": ["Evidence", "log_evidence"],
        "inference.compile.compiled_elbo": ["Compiled_ELBO"],
        "inference.em.fit_cavi": ["fit_cavi"],
        "inference.em.fit_closed_form": ["fit_closed_form"],
        "inference.em.fit_em": ["fit_em"],
        "inference.em.fit_mcem": ["fit_mcem"],
        "inference.fit_result": ["FitResult"],
        "inference.objectives.free_bits": ["FreeBits_ELBO"],
        "inference.objectives.importance_weighted": ["ImportanceWeighted_ELBO"],
        "inference.objectives.wake_sleep": ["ReweightedWakeSleep", "WakeSleep"],
        "inference.posterior.laplace": ["Laplace", "laplace"],
        "inference.posterior.nuts": ["Posterior", "nuts"],
        "inference.posterior.refine_posterior": ["refine"],
        "inference.posterior.refined_guides": ["Refined"],
        "inference.svi.fit_svi": ["fit", "pick_device"],
        "loggers.tensorboard": ["TensorBoard"],
        "models.autoencoder": ["Autoencoder"],
        "models.bayesian_mixture": ["BayesianGaussianMixture"],
        "models.bernoulli_mixture": ["BernoulliMixture"],
        "models.exact_density": ["Density"],
        "models.gaussian_mixture": ["GaussianMixture"],
        "models.pca": ["KernelPCA", "PCA"],
        "models.ppca": ["FactorAnalysis", "PPCA"],
        "models.vae": ["ConditionalVAE", "VAE"],
        "plots.fit_figures": ["plot_posterior"],
        "plots.latent_figures": ["LatentFigure", "latent_figures"],
        "plots.learning_curve_figures": ["plot_curves", "plot_gap"],
        "plots.mixture_densities": ["plot_components", "plot_planes"],
        "programs.model_and_guide": ["Program"],
        "report.html_page": ["write_report"],
        "serialization": ["load", "save"],
        "studies.autoencoder_vs_vae_encoders": ["evaluate_encoder", "fit_encoder", "reconstruction_error"],
        "studies.em_bounds": ["CoordinateAscentDemo", "plot_coordinate_ascent", "coordinate_ascent_demo"],
        "studies.posterior_collapse": ["CollapseResult", "compare_remedies", "plot_collapse"],
        "studies.squared_error_trap": ["SquaredErrorTrap", "squared_error_trap"],
        "studies.squared_error_trap_figures": ["plot_squared_error_trap"],
    },
)
