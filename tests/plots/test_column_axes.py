"""Planes of tables whose columns have kinds: numbers first, levels by their text, dates as dates."""

import pytest
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.plots.column_axes import format_column_axes, shown_columns


@pytest.mark.parametrize(
    ("drop", "names", "scales", "texts"),
    [
        ((), ["revenue", "orders"], ["log", "linear"], [None, None]),
        (("revenue",), ["orders", "satisfaction"], ["linear", "linear"], [None, None]),
        (("revenue", "orders"), ["satisfaction", "signup"], ["linear", "linear"], [None, "2021-03-31"]),
        (("revenue", "orders", "satisfaction", "signup"), ["segment", "city"], ["linear", "linear"], ["Retail", None]),
    ],
)
def test_a_plane_shows_columns_by_their_kinds(drop, names, scales, texts):
    data = pv.load_data("customers", label="churned", drop=drop)
    places = shown_columns(data)
    assert [data.columns[place] for place in places] == names
    axes = Figure().subplots()
    rows = data.train.stored[:, places].numpy()
    axes.scatter(rows[:, 0], rows[:, 1])
    format_column_axes(axes, data, places)
    assert [axes.get_xscale(), axes.get_yscale()] == scales
    for axis, text, place in zip((axes.xaxis, axes.yaxis), texts, places, strict=True):
        if text is not None:
            value = 18717 if data.schema.modelled[place].kind == "datetime" else 3
            assert axis.get_major_formatter()(value, 0) == text


def test_planes_of_plain_tables_are_as_before():
    data = pv.load_data("swiss-roll")
    assert shown_columns(data) == [0, 1]
    axes = Figure().subplots()
    format_column_axes(axes, data, [0, 1])
    assert axes.get_xscale() == "linear"
