"""What is asked of every figure: it draws, and nothing that is written leaves it or overlaps; programs to draw."""

import numpy as np
import pyro.distributions as dist
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from torch import nn

import pyro_vae as pv
from pyro_vae.plots.latent_view import LatentView


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def check_drawn(figure, path):
    """It draws, warnings being errors, and nothing that is written leaves the picture or meets other words."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.bbox.padded(2)
    shown = [
        text for axes in figure.axes for text in (*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label)
    ]
    boxes = [
        Text.get_window_extent(text, renderer) for text in shown if text.get_text()
    ]  # an annotation's without arrow
    for i, box in enumerate(boxes):
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    figure.savefig(path)
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def build_vae(K, D, prior=None, guide=None, likelihood=pv.likelihoods.Bernoulli):
    guide = guide or pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    return pv.VAE(prior or pv.priors.StandardNormal(K), likelihood(pv.nets.mlp(K, 8, D)), guide)


def look_at(program, name="digits", num=40):
    data = pv.load_data(name)
    return LatentView(program, data, data.valid.head(num))


def sheet_of(figure, shape, columns, axes=0):
    """The pictures of a sheet, (lines, columns, D)."""
    sheet = np.asarray(figure.axes[axes].images[0].get_array())
    height, width = shape[0] + 2, shape[1] + 2
    lines = (len(sheet) + 2) // height
    at = [(i * height, j * width) for i in range(lines) for j in range(columns)]
    return np.stack([sheet[a : a + shape[0], b : b + shape[1]].ravel() for a, b in at]).reshape(lines, columns, -1)


class Given(nn.Module):
    """q(z | x) the same for all rows."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc, self.scale = torch.tensor(loc), torch.tensor(scale)

    def forward(self, x):
        return dist.Normal(self.loc.expand(len(x), -1), self.scale.expand(len(x), -1)).to_event(1)
