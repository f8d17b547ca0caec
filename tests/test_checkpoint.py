"""What is written to a checkpoint."""

import errno
import io
import os

import pytest
import torch

from bench import checkpoint


def test_a_full_disk_is_told_as_such():
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    with pytest.raises(OSError, match="No space left on device"):
        checkpoint._save({"weights": torch.zeros(3)}, Full())  # PyTorch: "unexpected pos"
