"""The families of columns: chosen by validation rows where they gain, in the run's schema, and kept where named."""

import numpy as np
import pandas
import pytest

import pyro_vae as pv
from pyro_vae.workflows.choose_families import choose_families
from pyro_vae.workflows.fit_run import fit_run


def table(num=3000):
    g = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "wait": g.gamma(0.6, 3, num),
            "price": np.exp(g.normal(2, 1, num)),
            "share": g.beta(0.4, 5, num),
            "logit": 1 / (1 + np.exp(-g.normal(0, 2, num))),
            "visits": g.negative_binomial(2, 0.3, num),
            "returns": np.where(g.random(num) < 0.5, 0, g.poisson(6, num)),
        }
    )


KINDS = {"wait": "positive", "price": "positive", "share": "bounded", "logit": "bounded"}


def test_each_column_gets_the_family_that_made_it():
    schema, chosen = choose_families(pv.load_data(table(), coding="columns", columns=KINDS))
    found = {column.name: column.family for column in schema if column.family}
    assert found == {"wait": "gamma", "share": "beta", "returns": "zero-inflated"}
    assert [str(each).split(",")[0] for each in chosen] == [f"{name}: {family}" for name, family in found.items()]


def test_the_run_keeps_the_families_and_a_named_one_stays(tmp_path):
    rows = table(1500)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    pv.load_data(rows, coding="columns", columns=KINDS).schema.to_toml(tmp_path / "schema.toml")
    text = (tmp_path / "schema.toml").read_text(encoding="utf-8")
    text = text.replace("[columns.price]\n", '[columns.price]\nfamily = "gamma"\n')
    (tmp_path / "schema.toml").write_text(text, encoding="utf-8")
    settings = {"data": str(tmp_path / "rows.csv"), "schema": str(tmp_path / "schema.toml"), "epochs": 1}
    settings["coding"] = "columns"
    run = fit_run(tmp_path / "run", hidden=(8,), **settings)
    opened = pv.open_run(run.folder)
    families = {group.family for group in opened.program().likelihood.grouping}
    assert families >= {"gamma", "negative-binomial", "zero-inflated"}
    drawn = opened.sample(50, seed=0)
    assert (drawn["returns"] >= 0).all()
    assert (drawn["price"] > 0).all()
    (tmp_path / "schema.toml").write_text(text.replace('"gamma"', '"beta"'), encoding="utf-8")
    with pytest.raises(pv.InputError, match="family 'beta'; a positive column has log-normal, gamma"):
        pv.load_data(rows, schema=str(tmp_path / "schema.toml"))
