"""The architectures, one file each; ``Output`` is what all of them return."""

from bench.models.layers import Output

__all__ = ["Output"]
