"""What a caller says of a table's rows reaches its splits."""

import numpy as np
import pandas
import pytest

import pyro_vae as pv


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), None])
def test_rows_of_a_frame_or_an_array_are_pictures_where_a_shape_is_given(shape):
    values = np.random.default_rng(0).normal(size=(40, 6))
    for rows in (values, pandas.DataFrame(values, columns=list("abcdef"))):
        data = pv.load_data(rows, image_shape=shape)
        assert data.image_shape == shape
        assert {split.image_shape for split in (data.train, data.valid, data.test)} == {shape}
