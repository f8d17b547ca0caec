"""The classic convolutional networks, compared under one protocol."""

__version__ = "0.1.0"
