"""What most of these tests do often: have PyTorch write a network as ONNX."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

# The exporter reads all of its 500 operators anew for each network, which takes longer than a small network does.
ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
