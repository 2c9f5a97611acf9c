"""The picture of the trap shows the numbers it was given."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.studies.squared_error_trap import measure_squared_error_trap
from pyro_vae.studies.squared_error_trap_figures import plot_squared_error_trap, typical_row


@pytest.fixture
def found():
    x = (torch.rand(40, 30) < 0.4).float()
    shares = [0.05, 0.2, 0.4]
    return measure_squared_error_trap(LinearGaussian(2, 30), x, image_shape=(5, 6), shares=shares, num_samples=20)


def test_pictures_and_numbers_are_those_of_the_row(found, tmp_path):
    figure = plot_squared_error_trap(found, share=0.4, row=7)
    left, right = figure.axes
    sheet = np.asarray(left.images[0].get_array())
    assert sheet.shape == (5, 3 * 6 + 2 * 7)
    for i, x in enumerate((found.x, found.cuts[0.4].x, found.shifted.x)):
        np.testing.assert_array_equal(sheet[:, i * 13 : i * 13 + 6], x[7].reshape(5, 6).numpy())
    words = [text.get_text() for text in left.texts]
    assert "moved one pixel" in words
    assert f"{found.cuts[0.4].mse[7]:.3f}" in words
    assert f"{found.shifted.distance[7]:.2f}" in words
    assert f"{found.log_px.log_px[7]:.1f}".replace("-", "−") in words
    assert sum(text.get_fontweight() == "bold" for text in left.texts) >= 3 + 3
    assert right.get_xlabel().startswith("ink cut off")
    figure.savefig(tmp_path / "shifts.png")


def test_the_panel_has_the_shares_of_every_measure_over_cuts(found):
    lines = [line.lines[0] for line in plot_squared_error_trap(found).axes[1].containers]
    assert len(lines) == 3
    for line, name in zip(lines, ("squared error", "latent distance", "log p(x)"), strict=True):
        shown = np.array(line.get_xydata(), dtype=float)
        np.testing.assert_allclose(shown[:, 1], [found.nearer(share)[name].value for share in found.cuts])
        np.testing.assert_allclose(shown[:, 0], [found.removed(share) for share in found.cuts])


def test_without_a_density_there_are_two_measures(found):
    bare = dataclasses.replace(
        found,
        log_px=None,
        shifted=dataclasses.replace(found.shifted, log_px=None),
        cuts={0.2: dataclasses.replace(found.cuts[0.2], log_px=None)},
    )
    assert len(plot_squared_error_trap(bare).axes[1].containers) == 2


def test_the_row_shown_says_what_most_say(found):
    votes = [votes for name, votes in found.votes(0.2).items() if name != "divergence of q"]
    row = typical_row(found, 0.2)
    assert all(float(vote[row]) == float(vote.mean() > 0.5) for vote in votes)
    with pytest.raises(pv.InputError, match=r"no cut of 0\.3"):
        plot_squared_error_trap(found, share=0.3)
    with pytest.raises(pv.InputError, match="row from 0 to 39"):
        plot_squared_error_trap(found, row=40)
