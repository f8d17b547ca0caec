"""What the tests of measurements share."""

import processes  # the server imports what it says there
import pytest

from bench.speed import turns


@pytest.fixture
def forked(monkeypatch):
    """Contestants are forked, in a fraction of a second; those started anew import PyTorch for seconds."""
    monkeypatch.setattr(turns, "START", processes.CONTEXT.get_start_method())
