"""Lowers TensorRT's Q/DQ network to the integer kernels of ONNX Runtime on a CPU.

The Q/DQ network says ``int8, zero point 0`` everywhere; ONNX Runtime is fast on x86 only with uint8
activations. Three rewrites that keep every scale, every clip and every weight as they are:

1. A tensor that can't be negative keeps its scale and becomes uint8 with zero point 0, codes 0…127. A signed
   one becomes uint8 with zero point 128, which holds the same values as int8 with zero point 0
   (``engines.onnxruntime.uint8_activations``).
2. A convolution whose result goes to a quantizer and nowhere else becomes one ``QLinearConv``.
3. A convolution with a float result (the main branch of a residual addition), over gathered patches, a fully
   connected layer and a product of two activations become ``MatMulIntegerToFloat`` (``integer_ops``).

AVX2 without VNNI multiplies uint8 by int8 with ``vpmaddubsw``, which adds two products in a *saturating*
int16. Codes 0…127 are safe (2·127·128 = 32512 < 32767); for signed tensors the weights become uint8 with zero
point 128 too, and ONNX Runtime takes its 16-bit kernel, which is exact and slower.

What differs from the Q/DQ network executed in float: ``QLinearConv`` takes its bias as int32 in units of
``s_x·s_w``, an error of at most ``s_x·s_w/2``, and rounded float32 sums become exact integer sums. Both can
turn a value that lies on the border between two codes into its neighbour, the bias in one value of 2,000 to
6,000 for each layer. Later layers multiply such changes: the logits of a trained CIFAR-10 ResNet-20 move by
0.026 of their standard deviation (RMS), where quantization itself moves them by 0.038. ONNX Runtime's own Q/DQ
optimizer rounds the bias in the same way and moves them by 0.026 too. A float bias everywhere (rewrite 3 for
all convolutions) would bring that to 0.006, and ResNet-18 from 1.6 to 1.3 times the speed of FP32.
"""

from collections.abc import Collection

import onnx
from onnx import NodeProto, helper

from engines.onnx_passes.graph import OnnxGraph
from engines.onnxruntime.integer_ops import (
    CONTRIB,
    float_convolution,
    fully_connected,
    product_of_activations,
    quantized_convolution,
)
from engines.onnxruntime.layers import Layers
from engines.onnxruntime.uint8_activations import is_uint8, lower_quantizers


def lower_qdq(model: onnx.ModelProto, in_float: Collection[str] = ()) -> onnx.ModelProto:
    """The network of ``model`` with ONNX Runtime's integer operators in place of Q/DQ pairs.

    Args:
        model: Q/DQ network with static channels, height and width (the batch may be dynamic); activations
            int8, per tensor, zero point 0; weights int8 initializers with one scale per output channel.
        in_float: layers (``engines.onnxruntime.layers``) that compute in float, with the weights that the integers
            stand for. They read floats where these are at hand, and behind an INT8 layer what its codes stand for.

    Pairs of another form stay as they are, and so does what depends on them: a network without Q/DQ comes
    back with the same operators. ``model`` itself is not changed.
    """
    graph = OnnxGraph(model)
    graph.prune()
    if in_float:
        Layers(graph).release(in_float)
        graph.prune()
    lower_quantizers(graph, in_float)
    graph.prune()
    _lower_layers(graph, in_float)
    lowered = graph.model()
    if all(entry.domain != CONTRIB for entry in lowered.opset_import):
        lowered.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return lowered


def _lower_layers(graph: OnnxGraph, in_float: Collection[str]) -> None:
    """Replaces convolutions and fully connected layers with quantized inputs by integer operators."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in list(graph.nodes):
        if node.output[0] in in_float:
            continue
        if node.op_type in {"Gemm", "MatMul"}:
            if fully_connected(graph, node, producers) or product_of_activations(graph, node, producers):
                graph.nodes.remove(node)
        elif node.op_type == "Conv":
            quantizer = _only_quantizer(graph, consumers[node.output[0]], node)
            if quantizer is not None and quantized_convolution(graph, node, quantizer, producers):
                graph.nodes.remove(node)
                graph.nodes.remove(quantizer)
            elif float_convolution(graph, node, producers):
                graph.nodes.remove(node)


def _only_quantizer(graph: OnnxGraph, readers: list[NodeProto], node: NodeProto) -> NodeProto | None:
    """The QuantizeLinear to uint8 that reads the result of ``node``, where nobody else reads it."""
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or node.output[0] in graph.outputs:
        return None
    return readers[0] if is_uint8(graph, readers[0]) else None
