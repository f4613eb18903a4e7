"""zscgan-convert: a PyTorch classifier in, an INT8 engine out, without any data."""

__version__ = "0.1.0"
