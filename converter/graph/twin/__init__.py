"""The PyTorch twin of an ONNX graph: one FX node for each ONNX node, under ONNX's names.

The operators are this package's own table of small functions. onnx2torch makes FX graphs too, but hides weights in
modules where neither their names nor the edges to them are seen, knows an operator by each version that changed its
schema, so that a newer opset is refused where nothing changed, and computes shapes on the device; its registry adds
operators but changes none of that. Older opsets are handled by the functions: onnx.version_converter would write other
nodes than the file has, and a twin's nodes are those of the file.
"""

from converter.graph.twin import (  # noqa: F401 - each enters its operators in the table
    activations,
    attention,
    convolution,
    elementwise,
    grids,
    host,
    indexing,
    linear,
    microsoft,
    normalisation,
    pooling,
    reductions,
    resize,
    shapes,
)
from converter.graph.twin.build import twin_from_onnx
from converter.graph.twin.names import nodes_by_value, onnx_name_of, output_names, parameter_of, value_name

__all__ = ["nodes_by_value", "onnx_name_of", "output_names", "parameter_of", "twin_from_onnx", "value_name"]
