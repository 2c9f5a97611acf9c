"""The Python calls of `bad_input.py`, by kind: expressions of the names that `define_names` makes."""

from typing import Any

ROWS = {  # what cannot be rows of a program of three columns
    "two columns": "x[:, :2]",
    "four columns": "torch.zeros(20, 4)",
    "no rows": "x[:0]",
    "no columns": "x[:, :0]",
    "one axis": "x[0]",
    "three axes": "x[None]",
    "a number": "3.0",
    "None": "None",
    "text": "'rows'",
    "ragged lists": "[[1.0, 2.0, 3.0], [1.0]]",
    "a list of texts": "[['a', 'b', 'c']]",
    "a dictionary": "{'a': [1.0]}",
    "the program": "vae",
    "a function": "len",
    "objects": "np.array([[None, 1, 2]] * 20, dtype=object)",
    "complex": "x + 1j",
    "infinite": "torch.full((20, 3), math.inf)",
    "NaN": "torch.full((20, 3), math.nan)",
}
FUNCTIONS = (  # of rows
    "pv.fit(vae, {}, epochs=1)",
    "pv.fit(vae, x, valid={}, epochs=1)",
    "pv.fit_em(mixture, {}, epochs=1)",
    "pv.fit_closed_form(ppca, {})",
    "pv.fit_cavi(bayesian, {})",
    "pv.fit_mcem(vae, {}, epochs=1)",
    "pv.select_mixture({}, components=[1])",
    "pv.log_evidence(vae, {}, num_samples=10)",
    "pv.auto_evidence(vae, {}, num_samples=10)",
    "pv.annealed_evidence(vae, {}, 2, num_chains=2)",
    "pv.exact_evidence(vae, {})",
    "pv.score(vae, {}, x, num_samples=10)",
    "pv.score(vae, x, {}, num_samples=10)",
    "pv.compare({{'vae': vae}}, {})",
    "pv.refine(vae, {}, 1)",
    "pv.laplace_approximation(vae, {}, steps=2)",
    "pv.nuts(vae, {}, 4, warmup=2, num_chains=1)",
    "pv.to_inference_data(vae, {}, 3)",
    "vae.encode({})",
    "vae.reconstruct({})",
    "vae.impute({})",
    "mixture.log_prob({})",
    "ppca.log_prob({})",
    "pv.diagnostics.aggregate(vae, {}, 10)",
    "pv.diagnostics.inference_gaps(vae, {}, steps=1, num_samples=10)",
    "pv.diagnostics.measure_latent_usage(vae, {})",
    "pv.diagnostics.two_sample(vae, {})",
    "impute_rows(vae, {}, num_samples=30)",
    "pv.plots.plot_components(line, {})",
)
PASSING = {  # pairs that have a meaning: functions that take rows with missing values, and a file's name
    ("vae.impute({})", "NaN"),
    ("impute_rows(vae, {}, num_samples=30)", "NaN"),
    ("pv.fit(vae, x, valid={}, epochs=1)", "None"),
    ("pv.select_mixture({}, components=[1])", "two columns"),
    ("pv.select_mixture({}, components=[1])", "four columns"),
    ("pv.plots.plot_components(line, {})", "two columns"),
}


def _of_rows() -> list[str]:
    return [
        function.format(rows)
        for function in FUNCTIONS
        for name, rows in ROWS.items()
        if (function, name) not in PASSING
    ]


TEXTS = {  # a call a line
    "load_data": """
pv.load_data(x, binarize='always')
pv.load_data(x, standardize='no')
pv.load_data(x, dequantize=3)
pv.load_data(x, missing='keep')
pv.load_data(x, image_shape=(2, 2))
pv.load_data(x, image_shape='big')
pv.load_data(x, image_shape=(1.5, 2))
pv.load_data(x, seed='a')
pv.load_data(x, seed=1.5)
pv.load_data(x, seed=None)
pv.load_data(x, columns={'a': 'real'})
pv.load_data(x, columns=3)
pv.load_data(x, label='a')
pv.load_data(x, stream=True)
pv.load_data(x, layer='raw')
pv.load_data(frame, label='z')
pv.load_data(frame, label=3)
pv.load_data(frame, columns={'z': 'real'})
pv.load_data(frame, columns={'a': 'odd'})
pv.load_data(frame, columns={'a': 3})
pv.load_data(frame, columns=['a'])
pv.load_data(frame, id=3)
pv.load_data(frame, drop=3)
pv.load_data(frame, weights='z')
pv.load_data(frame, weights='a')
pv.load_data(frame, split='z')
pv.load_data(frame, group='z')
pv.load_data(frame, schema=3)
pv.load_data(frame, schema='absent.toml')
pv.load_data(frame, coding='none')
pv.load_data(frame, valid=3)
pv.load_data(frame, test=x)
pv.load_data(frame, header=3)
pv.load_data('rows.csv', header='maybe')
pv.load_data('minst')
pv.load_data(x, resize=(8, 8))
pv.load_data(x, gray=True)
pv.load_data(x, gray='no')
pv.load_data('pictures', resize=(0, 0))
pv.load_data('pictures', resize=(10**6, 10**6))
pv.load_data(frame.iloc[:0])
pv.load_data(frame[[]])
pv.load_data(frame.iloc[:1])
pv.load_data('digits', root=3)
pv.load_data('')
pv.load_data('\\0')
pv.load_data('x' * 5000 + '.csv')
data.prepare(x[:, :2])
data.prepare(None)
data.prepare('absent.csv')
data.prepare(frame[['a', 'b']])
data.prepare(x, header='maybe')
data.prepare([])
data.split('none')
data.split(3)
""",
    "data": """
pv.Split('a', None)
pv.Split('a', x[0])
pv.Split('a', 'rows')
pv.Split('a', x, labels=torch.zeros(3))
pv.Split('a', x, weights=torch.zeros(3))
pv.Split('a', x, weights=-torch.ones(len(x)))
pv.Split('a', x, weights='a')
pv.Split('a', x, inputs={'x': x})
pv.Split('a', x, inputs={'y': x[:3]})
pv.Split('a', x, inputs=3)
pv.Split('a', x, measure=3)
pv.Split('a', x, measure=M(scale=(1.0,)))
pv.Split('a', x, measure=M(scale=(1.0,) * 4, shift=(0.0,) * 4))
pv.Split('a', x, image_shape=(5, 5))
pv.Split('a', x, index=torch.zeros(3))
M(scale=(0.0,), shift=(0.0,))
M(scale=(-1.0,), shift=(0.0,))
M(scale=(math.nan,), shift=(0.0,))
M(scale=(math.inf,), shift=(0.0,))
M(scale=(1.0,), shift=())
M(scale=(1.0,), shift=(0.0, 0.0))
M(scale=(1.0,), shift=(math.nan,))
M(scale='a', shift='b')
M(binarize='always')
M(levels=0)
M(levels=-1)
M(levels='many')
M(counted=('a',))
M.from_dict(3)
M.from_dict({'colour': 3})
M.from_dict({'scale': 3})
pv.data.as_split(3, 'a')
pv.data.as_split(None, 'a')
pv.data.DataConfig(data=3)
pv.data.DataConfig(id='a')
pv.data.DataConfig(stream='no')
pv.data.DataConfig(label=3)
pv.Dataset('a', x, x, x)
pv.Dataset('a', None, None, None)
""",
    "parts": """
pv.VAE(None, None, None)
pv.VAE(prior, likelihood, None)
pv.VAE(None, likelihood, guide)
pv.VAE(prior, None, guide)
pv.VAE(guide, likelihood, prior)
pv.VAE(likelihood, prior, guide)
pv.VAE(prior, guide, likelihood)
pv.VAE(3, 4, 5)
pv.VAE('a', 'b', 'c')
pv.VAE(prior, likelihood)
pv.fit(pv.VAE(pv.priors.StandardNormal(3), likelihood, guide), x, epochs=1)
pv.VAE(prior, likelihood, guide, 3)
pv.fit(pv.VAE(prior, pv.likelihoods.Normal(pv.nets.mlp(5, 4, 3)), guide), x, epochs=1)
pv.fit(pv.VAE(prior, likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(3, 4, 6))), x, epochs=1)
pv.VAE(pv.priors.StandardNormal, pv.likelihoods.Normal, pv.guides.MeanFieldNormal)
pv.VAE(prior, pv.nets.mlp(2, 4, 3), guide)
pv.VAE(prior, likelihood, pv.nets.mlp(3, 4, 4))
pv.priors.StandardNormal(0)
pv.priors.StandardNormal(-1)
pv.priors.StandardNormal(2.5)
pv.priors.StandardNormal('two')
pv.priors.StandardNormal(None)
pv.priors.StandardNormal(math.nan)
pv.priors.StandardNormal(True)
pv.priors.StandardNormal(10**12)
pv.priors.MixtureOfNormals(2, 0)
pv.priors.MixtureOfNormals(2, 2.5)
pv.priors.MixtureOfNormals(2, 10**12)
pv.priors.FlowPrior(2, layers=0)
pv.priors.VampPrior(guide, 0, 3)
pv.priors.VampPrior(None, 5, 3)
pv.likelihoods.Normal(None)
pv.likelihoods.Normal(3)
pv.likelihoods.Normal('net')
pv.likelihoods.Normal(net, scale=-1.0)
pv.likelihoods.Normal(net, scale=math.nan)
pv.likelihoods.Normal(net, scale='big')
pv.likelihoods.Normal(net, scale=None)
pv.likelihoods.Normal(net, floor=-1.0)
pv.likelihoods.Normal(net, floor=math.nan)
pv.likelihoods.Bernoulli(None)
pv.likelihoods.Bernoulli(pv.nets.mlp)
pv.likelihoods.Categorical(net, num_categories=0)
pv.likelihoods.DiscretizedLogistic(net, levels=0)
pv.likelihoods.StudentT(net, scale=-1.0)
pv.guides.MeanFieldNormal(None)
pv.guides.MeanFieldNormal(3)
pv.guides.MeanFieldNormal('net')
pv.guides.FullRankNormal(None, 2)
pv.guides.FullRankNormal(net, 0)
pv.guides.LowRankNormal(net, 2, rank=0)
pv.guides.LowRankNormal(net, 2, rank=9)
pv.guides.MixtureGuide(net, 2, 0)
pv.guides.FlowGuide(net, 2, layers=0)
pv.guides.FlowGuide(net, 2, kind='none')
pv.nets.mlp()
pv.nets.mlp(3)
pv.nets.mlp(0, 3)
pv.nets.mlp(2, -4, 3)
pv.nets.mlp(2.5, 3)
pv.nets.mlp('a', 3)
pv.nets.mlp(2, None, 3)
pv.nets.mlp([2, 4, 3])
pv.nets.mlp(2, 3, activation='none')
pv.nets.mlp(2, 3, activation=3)
pv.nets.mlp(10**9, 10**9)
pv.nets.mlp(True, 3)
pv.nets.linear(2)
pv.nets.linear(0, 3)
pv.nets.gated_mlp(2, 0, 3)
pv.nets.conv((8, 8), 4)
pv.nets.conv((8,), 4, outputs=4)
pv.nets.conv((0, 8), 4, outputs=4)
pv.nets.conv('big', 4, outputs=4)
pv.nets.conv((10**6, 10**6), 4, outputs=4)
pv.nets.conv_transpose(2, 4, image_shape=(0, 0))
pv.nets.resnet((8, 8), 0, outputs=4)
""",
    "models": """
pv.GaussianMixture(0, 3)
pv.GaussianMixture(2, 0)
pv.GaussianMixture(2.5, 3)
pv.GaussianMixture('a', 3)
pv.GaussianMixture(2, 3, covariance='none')
pv.GaussianMixture(10**12, 3)
pv.GaussianMixture(None, 3)
pv.GaussianMixture(2)
pv.GaussianMixture(True, 3)
pv.PPCA(0, 3)
pv.PPCA(3, 3)
pv.PPCA(2, 0)
pv.PPCA('a', 3)
pv.PPCA(1.5, 3)
pv.PPCA(10**12, 10**13)
pv.FactorAnalysis(0, 3)
pv.FactorAnalysis(2.5, 3)
pv.BernoulliMixture(0, 3)
pv.BernoulliMixture(2, -1)
pv.BernoulliMixture(10**12, 3)
pv.BayesianGaussianMixture(0, 3, 60)
pv.BayesianGaussianMixture(2, 2.5, 60)
pv.BayesianGaussianMixture(2, 3, 0)
pv.BayesianGaussianMixture(2, 3, 60, weight_concentration=-1.0)
pv.BayesianGaussianMixture(2, 3, 60, mean=[1.0])
pv.PCA(0)
pv.PCA('a')
pv.Autoencoder(None, None, 2)
pv.Autoencoder(3, 4, 2)
pv.Autoencoder(net, likelihood, 0)
pv.Autoencoder(net, likelihood, 2, denoising=2.0)
pv.Autoencoder(net, likelihood, 2, corruption='none')
pv.ConditionalVAE(None, None, None, 3)
pv.ConditionalVAE(prior, likelihood, guide, 0)
pv.ColumnsMixture(0, data.schema)
pv.ColumnsMixture(2, None)
pv.ColumnsMixture(2, 3)
pv.Program(None, None)
pv.Program(3, 4)
pv.Program('a', 'b')
""",
    "settings": """
pv.fit(vae, x, epochs=0)
pv.fit(vae, x, epochs=1.9)
pv.fit(vae, x, epochs=True)
pv.fit(vae, x, epochs='3')
pv.fit(vae, x, epochs=math.nan)
pv.fit(vae, x, epochs=math.inf)
pv.fit(vae, x, epochs=None)
pv.fit(vae, x, epochs=[3])
pv.fit(vae, x, epochs=x)
pv.fit(vae, x, epoks=3)
pv.fit(vae, x, batch_size=0)
pv.fit(vae, x, batch_size=2.5)
pv.fit(vae, x, learning_rate=0)
pv.fit(vae, x, learning_rate='fast')
pv.fit(vae, x, learning_rate=math.nan)
pv.fit(vae, x, clip=0)
pv.fit(vae, x, clip=-1)
pv.fit(vae, x, optimizer='none')
pv.fit(vae, x, optimizer=torch.optim.Adam)
pv.fit(vae, x, optimizer=None)
pv.fit(vae, x, schedule='none')
pv.fit(vae, x, schedule=3)
pv.fit(vae, x, loss='elbo')
pv.fit(vae, x, loss=3)
pv.fit(vae, x, loss=pyro.infer.Trace_ELBO)
pv.fit(vae, x, progress='loud', epochs=1)
pv.fit(vae, x, progress=3, epochs=1)
pv.fit(vae, x, device='none')
pv.fit(vae, x, device=3)
pv.fit(vae, x, device='cuda:77')
pv.fit(vae, x, dtype='float64')
pv.fit(vae, x, dtype=torch.long)
pv.fit(vae, x, dtype=3)
pv.fit(vae, x, dtype=torch.complex64)
pv.fit(vae, x, labels='a')
pv.fit(vae, x, labels=torch.zeros(3))
pv.fit(vae, x, checkpoint=3)
pv.fit(vae, x, checkpoint='a_file', epochs=1)
pv.fit(vae, x, callbacks=3)
pv.fit(vae, x, callbacks=[3])
pv.fit(vae, x, on_epoch=3)
pv.fit(vae, x, 3)
pv.fit(vae, x, {'epochs': 3})
pv.fit(x, vae)
pv.fit(vae)
pv.fit(None, x)
pv.fit(3, x)
pv.fit(pv.VAE, x)
pv.fit(vae, x, seed='a')
pv.fit(vae, x, seed=10**30)
pv.fit(vae, x, patience=3)
pv.fit(vae, x, num_particles=10**12, epochs=1)
pv.TrainConfig(epochs='a')
pv.TrainConfig(3)
pv.TrainConfig(colour=3)
pv.fit_em(vae, x)
pv.fit_em(mixture, x, epochs=0)
pv.fit_em(mixture, x, start='none')
pv.fit_em(mixture, x, tolerance=-1)
pv.fit_em(mixture, x, tolerance=math.nan)
pv.fit_em(mixture, x, seed='a')
pv.fit_em(x, mixture)
pv.fit_em(None, x)
pv.fit_cavi(mixture, x)
pv.fit_cavi(None, x)
pv.fit_closed_form(vae, x)
pv.fit_closed_form(None, x)
pv.fit_mcem(None, x)
pv.select_mixture(x, components=0)
pv.select_mixture(x, components=[])
pv.select_mixture(x, components='a')
pv.select_mixture(x, covariance='none')
pv.FreeBits_ELBO(-1)
pv.FreeBits_ELBO('a')
pv.FreeBits_ELBO(math.nan)
pv.FreeBits_ELBO(1.0, each='none')
pv.ImportanceWeighted_ELBO(num_particles=0)
pv.ImportanceWeighted_ELBO(num_particles='a')
pv.ReweightedWakeSleep(num_particles=0)
""",
    "estimates": """
pv.log_evidence(vae, x, num_samples=0)
pv.log_evidence(vae, x, num_samples=-1)
pv.log_evidence(vae, x, num_samples=2.5)
pv.log_evidence(vae, x, num_samples='a')
pv.log_evidence(vae, x, num_samples=None)
pv.log_evidence(vae, x, num_samples=True)
pv.log_evidence(vae, x, num_samples=10**12)
pv.log_evidence(vae, x, seed='a')
pv.log_evidence(vae, x, prior_share=2)
pv.log_evidence(vae, x, prior_share=math.nan)
pv.log_evidence(vae, x, memory_mib=0)
pv.log_evidence(vae, x, memory_mib=math.nan)
pv.log_evidence(vae, x, memory_mib='a')
pv.log_evidence(vae, x, labels='a')
pv.log_evidence(vae, x, labels=torch.zeros(3))
pv.log_evidence(vae, x, mask=x[:3])
pv.log_evidence(x, vae)
pv.log_evidence(None, x)
pv.log_evidence(vae)
pv.log_evidence(pv.VAE, x)
pv.log_evidence(vae, x, samples=3)
pv.auto_evidence(vae, x, num_samples=0)
pv.auto_evidence(x, vae)
pv.auto_evidence(None, x)
pv.annealed_evidence(vae, x, 0)
pv.annealed_evidence(vae, x, num_chains=0)
pv.annealed_evidence(vae, x, num_chains=2.5)
pv.annealed_evidence(vae, x, start='none')
pv.annealed_evidence(None, x)
pv.exact_evidence(None, x)
pv.exact_evidence(x, vae)
pv.bidirectional(vae, 0)
pv.bidirectional(None)
pv.score(vae, x, None)
pv.score(vae, x, x, false_alarms=2)
pv.score(vae, x, x, false_alarms=math.nan)
pv.score(vae, x, x, false_alarms='a')
pv.score(None, x, x)
pv.score(x, vae, x)
pv.compare({}, x)
pv.compare(None, x)
pv.compare({'a': None}, x)
pv.compare([vae], x)
pv.compare(vae, x)
pv.compare_evidence(None)
pv.compare_evidence(3)
pv.compare_evidence({})
pv.compare_evidence({'a': x})
pv.refine(vae, x, steps=0)
pv.refine(vae, x, steps='a')
pv.refine(None, x)
pv.laplace_approximation(None, x)
pv.nuts(None, x)
pv.nuts(vae, x, num_samples=0)
pv.nuts(vae, x, num_samples='a')
pv.to_inference_data(None, x)
pv.to_inference_data(vae, x, path=3)
pv.to_inference_data(vae, x, columns=['a'])
impute_rows(None, x)
impute_rows(vae, x, num_samples=0)
impute_rows(vae, x, num_imputations=0)
pv.diagnostics.aggregate(None, x)
pv.diagnostics.inference_gaps(None, x)
pv.diagnostics.measure_latent_usage(None, x)
pv.diagnostics.two_sample(None, x)
pv.diagnostics.two_sample(vae, x, num_rows=0)
pv.diagnostics.interpolate(None, x[1])
pv.diagnostics.interpolate(x[0], x[1], steps=0)
pv.diagnostics.interpolate(x[0], x[1], method='none')
pv.diagnostics.interpolate(x[0], x[1, :2])
pv.diagnostics.density_on_grid(None, (0, 0), (1, 1))
pv.diagnostics.density_on_grid(line, (0,), (1,))
pv.diagnostics.density_on_grid(line, (0, 0), (math.nan, 1))
pv.diagnostics.density_on_grid(line, (0, 0), (1, 1), 0)
pv.diagnostics.density_on_grid(line, (0, 0), (1, 1), 10**7)
pv.diagnostics.pool_estimates([], [])
pv.diagnostics.pool_estimates(None, None)
pv.diagnostics.pool_estimates([1.0], [1.0, 2.0])
pv.diagnostics.pool_estimates(['a'], ['b'])
vae.sample(0)
vae.sample(-1)
vae.sample('a')
vae.sample(2.5)
vae.sample(10**13)
vae.decode(torch.zeros(3, 5))
vae.decode(None)
vae.decode('a')
vae.impute(x, num_samples=0)
""",
    "files": """
pv.load('absent')
pv.load(3)
pv.load(None)
pv.load('a_file')
pv.load('run', build=3)
pv.load('run', build=lambda: None)
pv.load('own_run')
pv.load('runs_of_strangers/weights_nan')
pv.load('runs_of_strangers/recipe_width_1e8')
pv.load('runs_of_strangers/recipe_text')
pv.load('runs_of_strangers/weights_missing')
pv.save(None, 'new')
pv.save(3, 'new')
pv.save(vae, None)
pv.save(vae, 'a_file')
pv.save(vae, 'a_file/inside')
pv.save('new', vae)
pv.open_run('absent')
pv.open_run(None)
pv.open_run(3)
pv.open_run('a_file')
pv.open_run('run', program=3)
pv.open_run('runs_of_strangers/measure_one_scale')
run.encode(x[:, :2])
run.encode(3)
run.encode('absent.csv')
run.encode([])
run.reconstruct(frame[['a']])
run.score(x, false_alarms=2)
run.score(x[:, :2])
run.score(x, estimator=3)
run.impute(x, method='none')
run.impute(x, num_imputations=0)
run.impute(x, num_samples=0)
run.impute(x, seed='a')
run.sample(0)
run.sample('a')
run.sample(10**13)
run.sample(3, seed='a')
run.rows('absent.csv', 'test')
run.rows(None, 'none')
pv.TensorBoard(3)
pv.TensorBoard(None)
pv.TensorBoard('a_file/inside')
pv.write_report(Path('new'), None, data, config={}, records={}, history=[])
pv.write_report(Path('new'), vae, None, config={}, records={}, history=[])
pv.write_report(Path('new'), vae, data, config={}, records={}, history=[], split='none')
pv.write_report(Path('new'), vae, data, config={}, records={}, history=[], num_rows=0)
pv.write_report(Path('new'), vae, data, config={}, records={}, history=[], out=Path('a_file/new'))
pv.write_report(Path('new'), vae, data, config=3, records={}, history=[])
""",
    "plots": """
pv.plots.plot_posterior(None)
pv.plots.plot_posterior(x)
pv.plots.plot_curves(None)
pv.plots.plot_curves([])
pv.plots.plot_gap(None)
pv.plots.plot_components(None, x)
pv.plots.plot_components(vae, x)
pv.plots.plot_planes(None, {})
pv.plots.plot_planes(x[:, :2], {'a': 3})
pv.plots.plot_selection(None)
pv.plots.draw_latent_figures(None, data, data.test, None)
pv.plots.draw_latent_figures(vae, None, None, None)
pv.studies.plot_collapse(None)
pv.studies.plot_coordinate_ascent(None)
pv.studies.plot_squared_error_trap(None)
pv.studies.reconstruction_error(None, x)
pv.studies.fit_encoder('none', 2, data)
pv.studies.fit_encoder('vae', 0, data)
pv.studies.fit_encoder('vae', 2, x)
pv.studies.compare_remedies(3)
pv.studies.coordinate_ascent_demo(steps=0)
""",
}
CALLS: dict[str, list[str]] = {"rows": _of_rows()} | {kind: text.strip().splitlines() for kind, text in TEXTS.items()}
CALLS["load_data"] += [
    f"pv.load_data({rows})" for name, rows in ROWS.items() if name not in ("two columns", "four columns")
]
known: dict[str, Any] = {}


def define_names() -> None:
    """Make the names that the calls may use: programs, rows, a data frame, a data set and a run."""
    import math
    from pathlib import Path

    import numpy as np
    import pyro
    import torch

    import pyro_vae as pv
    from pyro_vae.evidence.impute_rows import impute_rows

    torch.manual_seed(0)
    net = pv.nets.mlp(2, 4, 3)
    prior, likelihood = pv.priors.StandardNormal(2), pv.likelihoods.Normal(net)
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 4, 4))
    data, run = pv.load_data(Path("rows.csv").resolve()), pv.open_run(Path("run").resolve())
    known.update(math=math, np=np, pyro=pyro, torch=torch, Path=Path, pv=pv, impute_rows=impute_rows)
    known.update(net=net, prior=prior, likelihood=likelihood, guide=guide, data=data, run=run)
    known.update(
        vae=pv.VAE(prior, likelihood, guide),
        x=torch.randn(60, 3),
        frame=run.sample(40, seed=0),
        mixture=pv.GaussianMixture(2, 3),
        line=pv.GaussianMixture(2, 2),
        bayesian=pv.BayesianGaussianMixture(2, 3, 60),
        ppca=pv.PPCA(1, 3),
        M=pv.data.Measure,
    )


def call(text: str) -> None:
    """Evaluate an expression of the table above."""
    eval(text, known)
