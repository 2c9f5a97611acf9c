"""Exposures of counts: the mean is proportional to a given column, in densities, fits, draws and scores."""

import numpy as np
import pandas
import pytest
import torch
from scipy import special, stats

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_families import choose_families
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.fit_settings import FitSettings

RATE, CHILDREN = 0.2, 1.5
DAYS, AREA = Column("days", "positive", given=True, scale=4.0), Column("area", "positive", given=True)


def table(num, seed=0):
    g = np.random.default_rng(seed)
    days = np.exp(g.normal(3, 1, num)).round(3)
    return pandas.DataFrame({"days": days, "claims": g.poisson(RATE * days), "children": g.poisson(CHILDREN, num)})


def test_the_mean_of_a_count_is_its_exposure_times_that_of_the_network():
    counts = Column("claims", "count", exposure="days"), Column("children", "count")
    zero_inflated = Column("trees", "count", exposure="area", family="zero-inflated")
    schema = Schema((DAYS, counts[0], Column("size", "real"), AREA, zero_inflated, counts[1]), coding="columns")
    assert schema.exposures == schema.conditions.exposures == ("days", "area")
    g = torch.Generator().manual_seed(0)
    raw = torch.randn(50, pv.likelihoods.Columns.num_outputs(schema), generator=g, dtype=torch.float64)
    log_exposure = 3 * torch.randn(50, 2, generator=g, dtype=torch.float64)
    likelihood = pv.likelihoods.Columns(torch.nn.Identity(), schema).double()
    x = torch.tensor([[7.0, 0.3, 0.0, 2.0], [0.0, -1.0, 30.0, 0.0]], dtype=torch.float64).repeat(25, 1)
    p = likelihood(torch.cat([raw, log_exposure], -1))
    about = {group.family: i for i, group in enumerate(likelihood.grouping)}
    ends = np.cumsum([0, *(group.outputs * len(group.columns) for group in likelihood.grouping)])
    out = {name: raw[:, ends[i] : ends[i + 1]].numpy() for name, i in about.items()}
    exposure, rows = log_exposure.exp().numpy(), x.numpy()

    def nbinom(total, mean):
        return stats.nbinom(total, total / (total + mean))

    total = np.e  # at first, of every column
    claims = nbinom(total, np.exp(out["negative-binomial"][:, 0]) * exposure[:, 0]).logpmf(rows[:, 0])
    children = nbinom(total, np.exp(out["negative-binomial"][:, 1])).logpmf(rows[:, 3])
    share = special.expit(out["zero-inflated"][:, 0])
    trees = nbinom(total, np.exp(out["zero-inflated"][:, 1]) * exposure[:, 1]).pmf(rows[:, 2])
    scale = np.log1p(np.exp(out["normal"][:, 1])) + likelihood.groups[about["normal"]].floor
    size = stats.norm(out["normal"][:, 0], scale).logpdf(rows[:, 1])
    truth = claims + children + size + np.log(share * (rows[:, 2] == 0) + (1 - share) * trees)
    assert np.allclose(p.log_prob(x).detach().numpy(), truth, rtol=1e-8, atol=1e-8)
    assert np.allclose(p.mean[:, 0].detach().numpy(), np.exp(out["negative-binomial"][:, 0]) * exposure[:, 0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exposures")
    table(60).to_csv(folder / "rows.csv", index=False)
    settings = {"exposure": ("claims=days",), "epochs": 1, "hidden": (4,), "latent_dim": 1, "seed": 0}
    return pv.open_run(fit_run(folder / "run", data=str(folder / "rows.csv"), **settings).folder)


def test_a_fit_finds_the_rate_at_any_exposure():
    data = pv.load_data(table(800), exposure={"claims": "days"})
    settings = FitSettings.from_options({"hidden": (8,), "latent_dim": 1, "epochs": 40, "learning_rate": 0.02}).model
    vae = build_vae(settings, choose_likelihood(settings, data), data, seed=0)
    pv.fit(vae, data, epochs=40, learning_rate=0.02, seed=0)
    new = table(300, seed=1)
    new["days"] *= 10  # beyond most training rows: no network has to extrapolate
    new["claims"] = np.random.default_rng(2).poisson(RATE * new["days"])
    truth = stats.poisson(RATE * new["days"]).logpmf(new["claims"]) + stats.poisson(CHILDREN).logpmf(new["children"])
    lost = truth - pv.auto_evidence(vae, data.prepare(new), 200).log_px.numpy()
    assert abs(lost.mean()) < 0.3, lost.mean()
    few, many = (vae.sample(2000, seed=0, given=data.preparation.given({"days": days}, 2000)) for days in (10, 1000))
    assert few[:, 0].mean() == pytest.approx(10 * RATE, rel=0.15)
    assert many[:, 0].mean() == pytest.approx(1000 * RATE, rel=0.15)
    assert few[:, 1].mean() == pytest.approx(many[:, 1].mean().item(), rel=0.1)


def test_a_run_draws_and_scores_at_an_exposure(run):
    assert run.schema["claims"].exposure == "days"
    few, many = (run.sample(500, given={"days": days}, seed=0) for days in (1, 1000))
    assert many["claims"].mean() > 100 * few["claims"].mean()
    new = table(5)
    assert (run.score(new)["log_px"] != run.score(new.assign(days=new["days"] * 2))["log_px"]).all()


def test_families_are_chosen_by_counts_at_their_exposure():
    g = np.random.default_rng(0)
    days = np.exp(g.normal(0, 2, 1500))
    rows = pandas.DataFrame({"days": days, "claims": g.poisson(2 * days)})  # many zeros, which the exposure explains
    _, by_itself = choose_families(pv.load_data(rows[["claims"]], columns={"claims": "count"}, coding="columns"))
    _, chosen = choose_families(pv.load_data(rows, exposure="days"))
    assert not chosen, (chosen, by_itself)


def test_what_a_schema_says_of_an_exposure_comes_back(tmp_path):
    data = pv.load_data(table(50).assign(visits=lambda rows: rows["claims"] + 1), exposure="days")
    assert [column.exposure for column in data.schema] == ["", "days", "days", "days"]
    assert data.train.measure.name(3) == "counting measure on 3 columns, given days"
    assert "mean proportional to days" in "\n".join(data.schema.describe())
    data.schema.to_toml(tmp_path / "schema.toml")
    again = pv.load_data(table(50).assign(visits=1 + table(50)["claims"]), schema=tmp_path / "schema.toml")
    assert again.schema == data.schema
    log_exposure = data.train.inputs[GIVEN][:, 0].log()
    assert abs(log_exposure.mean()) < 1e-6  # in units of the geometric mean


CASES = [
    ("exposure of nothing", {"exposure": "dais"}, {}, "no column 'dais'; did you mean 'days'"),
    ("a count that is not there", {"exposure": {"clams": "days"}}, {}, "no column 'clams'; did you mean 'claims'"),
    ("no counts", {"exposure": "days", "columns": {"claims": "real", "children": "real"}}, {}, "no column is one"),
    ("of a real number", {"exposure": {"claims": "days"}, "columns": {"claims": "real"}}, {}, "only counts have one"),
    ("of itself", {"exposure": {"claims": "claims"}}, {}, "claims"),
    ("a column of text", {"exposure": "town"}, {"town": "x"}, "town"),
    ("an id", {"exposure": "days", "id": "days"}, {}, "an exposure is a positive number, and the column is id"),
    ("zero", {"exposure": "days"}, {"days": 0.0}, "days is 0 in row 3"),
    ("negative", {"exposure": "days"}, {"days": -2.0}, "positive takes numbers from 0"),
    ("missing", {"exposure": "days"}, {"days": np.nan}, "days is missing in row 3"),
    ("codes", {"exposure": "days", "coding": "one-hot"}, {}, "take --likelihood columns"),
]


@pytest.mark.parametrize(("options", "changes", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_cannot_be_an_exposure_is_refused(options, changes, said):
    rows = table(60)
    for name, value in changes.items():
        if name not in rows:
            rows[name] = [f"{value}{i % 4}" for i in range(len(rows))]
        else:
            rows.loc[3, name] = value
    with pytest.raises(pv.InputError, match=said.replace("(", r"\(")):
        pv.load_data(rows, **options)


def test_arrays_have_no_exposure_and_new_rows_need_theirs(run, tmp_path):
    with pytest.raises(pv.InputError, match="columns are named"):
        pv.load_data(np.random.default_rng(0).poisson(3, (50, 2)), exposure="0")
    for days, said in ((0, "days is 0 in row 0"), (np.nan, "days is missing in row 0")):
        with pytest.raises(pv.InputError, match=said):
            run.score(table(5).assign(days=[days, 1, 1, 1, 1]))
    with pytest.raises(pv.InputError, match="no column days"):
        run.score(table(5).drop(columns="days"))
    with pytest.raises(pv.InputError, match="days cannot be '0'"):
        run.sample(5, given={"days": 0})
    table(40).to_csv(tmp_path / "rows.csv", index=False)
    for words in (["--exposure", "claims="], ["--exposure", "days", "--exposure", "children"]):
        with pytest.raises(SystemExit) as refused:
            main(["fit", "--data", str(tmp_path / "rows.csv"), *words, "--out", str(tmp_path / "r")])
        assert refused.value.code == 2
        assert not (tmp_path / "r").exists()
