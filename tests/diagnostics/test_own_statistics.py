"""Statistics of a user's own are given frames where columns have names."""

import numpy as np
import pandas
import pytest

import pyro_vae as pv
from pyro_vae.diagnostics.checks.own_statistics import statistics_of_arrays
from pyro_vae.diagnostics.checks.row_statistics import original_values


@pytest.fixture(scope="module")
def frame():
    g = np.random.default_rng(0)
    made = pandas.DataFrame(
        {
            "age": g.integers(18, 80, 200),
            "segment": g.choice(["retail", "trade"], 200, p=[0.3, 0.7]),
            "revenue": g.lognormal(3.0, 1.0, 200),
            "region": g.choice(["north", "south"], 200),
        }
    )
    made.loc[::7, "revenue"] = np.nan
    return made


@pytest.mark.parametrize("given", [(), ("region",)])
@pytest.mark.parametrize("coding", ["columns", "one-hot"])
def test_a_frame_has_names_levels_units_and_conditions(frame, coding, given):
    data = pv.load_data(frame, given=given, coding=coding)
    seen = []
    functions = statistics_of_arrays({"seen": lambda rows: seen.append(rows) or 0.0}, data.schema, data.valid)
    assert functions["seen"](original_values(data.valid)) == 0.0
    expected = frame.iloc[data.valid.index.numpy()].reset_index(drop=True)
    assert list(seen[0].columns) == list(expected.columns)
    for name in ("segment", "region"):
        assert seen[0][name].astype(str).tolist() == expected[name].tolist()
    for name in ("age", "revenue"):
        np.testing.assert_allclose(seen[0][name].astype(float), expected[name].astype(float), rtol=1e-5)


def test_an_array_without_names_stays_one():
    data = pv.load_data(np.random.default_rng(0).normal(size=(100, 3)))
    functions = statistics_of_arrays({"mean": lambda rows: rows[:, 0].mean()}, data.schema, data.valid)
    assert functions["mean"](original_values(data.valid)) == pytest.approx(
        float(original_values(data.valid)[:, 0].mean())
    )


def test_a_check_compares_what_a_function_makes_of_frames(frame):
    """The share of trade in the rows is that of the file; the model's is that of its draws."""
    data = pv.load_data(frame, coding="columns")
    mixture = pv.ColumnsMixture(2, data.schema)
    pv.fit_em(mixture, data.train)
    found = pv.diagnostics.check(
        mixture,
        data,
        families=["statistics"],
        split="valid",
        statistics={"trade": lambda rows: float((rows.segment == "trade").mean())},
    )["statistics"]
    share = (frame.segment.iloc[data.valid.index.numpy()] == "trade").mean()
    assert found.findings[0].rows == pytest.approx(share)
    assert found.findings[0].model == pytest.approx((frame.segment == "trade").mean(), abs=0.1)
