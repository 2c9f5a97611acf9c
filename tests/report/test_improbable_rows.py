"""The report's list of the least probable rows: their values, their place, and the marked ones."""

import dataclasses

import pytest
import torch

import pyro_vae as pv
from pyro_vae.report.explained_rows import plain_value, value_in_words
from pyro_vae.report.improbable_rows import MAX_SHOWN, NUM_ROWS, improbable_rows


@pytest.fixture(scope="module")
def customers():
    """The customers' table, a fitted mixture, and validation rows of which one has too large a revenue."""
    data = pv.load_data("customers", label="churned")
    mixture = pv.ColumnsMixture(3, data.schema)
    pv.fit_em(mixture, data, seed=0)
    stored = data.valid.stored.clone()
    stored[7, 3] = 2e6
    rows = dataclasses.replace(data.valid, stored=stored)
    return data, mixture, rows


def test_the_least_probable_rows_have_their_values(customers):
    data, mixture, rows = customers
    found = pv.exact_evidence(mixture, rows)
    shown = improbable_rows(mixture, data, rows, found)
    assert len(shown.rows) == NUM_ROWS
    assert shown.columns == [column.name for column in data.schema.modelled]
    assert shown.are_numbers == [False, False, False, True, True, True]
    first, log_px = shown.rows[0], found.log_px.sort()
    assert first.name == rows.ids["customer_id"][7]
    assert [row.percentile for row in shown.rows] == [f"{float(i):.1f}" for i in range(NUM_ROWS)]
    assert first.log_px == f"−{-float(log_px.values[0]):.1f}"
    revenue = first.cells[3]
    assert revenue.text == "2,000,000"
    assert float(revenue.nats.replace("−", "-")) < -10
    own = data.preparation.to_frame(rows.x).iloc[log_px.indices[1].item()]
    assert shown.rows[1].cells[1].text == own["segment"]
    row = log_px.indices[:NUM_ROWS].tolist()
    gaps = [rows.mask[i, 5].item() for i in row]
    assert [each.cells[5].text == "missing" for each in shown.rows] == [not known for known in gaps]


def test_of_many_columns_those_with_marks_are_shown():
    """Of 40 columns twelve, the moved one among them, in their own order."""
    torch.manual_seed(0)
    x = torch.randn(60, 40) @ torch.randn(40, 40).div(6)
    x[5, 33] += 40
    data = pv.load_data(x.numpy())
    model = pv.FactorAnalysis(2, 40)
    pv.fit_em(model, data, seed=0)
    rows = data.prepare(x.numpy())
    shown = improbable_rows(model, data, rows, pv.exact_evidence(model, rows))
    assert len(shown.columns) == MAX_SHOWN
    assert shown.num_columns == 40
    assert "x34" in shown.columns
    assert shown.columns == sorted(shown.columns, key=lambda name: int(name[1:]))
    assert shown.rows[0].cells[shown.columns.index("x34")].nats


def test_pictures_and_rows_without_a_number_have_no_list():
    digits = pv.load_data("digits")
    mixture = pv.BernoulliMixture(2, 64)
    assert improbable_rows(mixture, digits, digits.valid, None) is None
    assert improbable_rows(mixture, digits, digits.valid, pv.exact_evidence(mixture, digits.valid)) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [(119897.0, "119,897"), (48000, "48,000"), (0.5, "0.5"), (-3.25e7, "-32,500,000"), (float("nan"), "missing")],
)
def test_values_in_words(value, words):
    assert value_in_words(plain_value(value)) == words
