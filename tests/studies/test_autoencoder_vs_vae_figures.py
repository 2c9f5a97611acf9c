"""The pictures of encoders side by side: what they show is what was found."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.studies.autoencoder_vs_vae_figures import (
    draw_encoders,
    plot_codes,
    plot_draws,
    plot_lines,
    plot_sizes,
)
from pyro_vae.studies.encoder_records import METRICS, EncoderMeans
from pyro_vae.studies.swiss_roll import UnrolledSheet, plot_rolls


@pytest.fixture(scope="module")
def shown():
    data = pv.load_data("digits", binarize="none")
    return data, {"pca": pv.PCA(2).fit(data), "ae": pv.PCA(2).fit(data.valid.x)}


def line(kind, K, value=0.5):
    return EncoderMeans(kind, K, 2, **dict.fromkeys(METRICS, (value, 0.1)))


def test_sizes_has_a_line_for_each_kind_and_the_level_of_x():
    figure = plot_sizes([line("pca", 2), line("pca", 5), line("ae", 2), line("ae", 5)], pixels=0.9)
    assert [len(axes.containers) for axes in figure.axes] == [2, 2, 2, 2]
    assert figure.axes[1].get_ylim()[1] >= 0.9


def test_codes_are_the_encoders_and_numbers_those_of_the_table(shown):
    data, models = shown
    figure = plot_codes(models, data.valid, [line("pca", 2, 0.123)])
    points = torch.cat([torch.as_tensor(c.get_offsets().data) for c in figure.axes[0].collections])
    assert len(points) == len(data.valid)
    assert "off centre 0.12" in figure.axes[0].texts[0].get_text()
    assert "off centre" in figure.axes[1].texts[0].get_text(), "without a line in the table it is computed"


def test_draws_far_from_all_are_framed(shown):
    data, models = shown
    figure = plot_draws(models, data.valid)
    for axes in figure.axes:
        said = int(axes.texts[0].get_text().split()[0])
        assert len(axes.patches) == said


def test_lines_of_pca_are_straight(shown):
    data, models = shown
    texts = [text.get_text() for text in plot_lines(models, data.valid).axes[0].texts]
    assert texts.count("× 1.00") == 3


def test_all_are_written(shown, tmp_path):
    data, models = shown
    roll = UnrolledSheet("pca", 0, torch.randn(50, 2), torch.rand(50, 2), 0.5, 0.5, 0.1)
    written = draw_encoders(tmp_path, [line("pca", 2), line("ae", 2)], models, data, data.valid, [roll, roll])
    assert [path.stem for path in written] == ["sizes", "codes", "draws", "lines", "roll"]
    assert plot_rolls([roll, roll]).axes[0].get_title(loc="left") == "PCA"
