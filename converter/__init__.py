"""zscgan-convert: a vision network of PyTorch or ONNX in, an INT8 engine out, without any data."""

__version__ = "0.2.0"
