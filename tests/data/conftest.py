"""Fixtures of the tests of data sets: a cache of each test's own, and blocks small enough to see their borders."""

import pytest

from pyro_vae.data.ondisk import rows_on_disk


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 7 rows of 10 bytes, windows of 5 blocks."""
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 75)
    monkeypatch.setattr(rows_on_disk, "WINDOW_BYTES", 5 * 75)
