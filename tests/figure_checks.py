"""What is asked of every figure: it draws, and nothing that is written leaves it or overlaps."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image


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
