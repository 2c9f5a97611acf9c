"""Graphs are recorded at the second call, and not after as many as pay for it."""

import pytest

from pyro_vae.inference.compile import compiled_elbo


@pytest.fixture(autouse=True)
def record_at_once(monkeypatch):
    monkeypatch.setattr(compiled_elbo, "MIN_CALLS", 1)
