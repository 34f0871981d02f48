"""Fixtures of the fault tests."""

import pytest

from ss4rec.data.synth.generate import synth


@pytest.fixture
def folder(tmp_path):
    """A prepared folder that a test may damage."""
    synth(tmp_path / "data", users=60, items=100, mean_len=26, seed=3)
    return tmp_path / "data"
