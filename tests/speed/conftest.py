"""What the tests of measurements share."""

import pytest
from processes import CONTEXT

from bench.speed import turns


@pytest.fixture
def forked(monkeypatch):
    """Contestants are forked, in a fraction of a second; those started anew import PyTorch for seconds."""
    monkeypatch.setattr(turns, "CONTEXT", CONTEXT)
