"""Reading ONNX files, with an error that says what is wrong."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from engines.errors import BuildError
from engines.files import existing_file
from engines.onnx_passes.external_data import LARGEST_ONNX, too_large, with_external_data
from zscgan_common.text import first_line

_FREE_CONSTANTS_IR = 4  # the first version of ONNX's format in which constants need not be inputs too


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of ``path``, with the weights that are stored beside it, checked; no constant is an input of it.

    Raises BuildError.
    """
    if (size := existing_file(path).stat().st_size) > LARGEST_ONNX:
        raise too_large(path, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ONNX, about a place of weights that it can't read
            model = onnx.load(path, load_external_data=False)
            with_external_data(model, path, _tensors(model.graph))
        _declare_outputs(model)
        _free_constants(model)
        onnx.checker.check_model(model)
        # What the checker doesn't look at: the bytes of weights, and names, which are bytes where they are no UTF-8.
        for tensor in _tensors(model.graph):
            numpy_helper.to_array(tensor)
        if not all(isinstance(name, str) for name in _names(model.graph)):
            raise ValueError("a name in it is no UTF-8 text")
    except BuildError:
        raise
    except OSError as error:
        raise BuildError(f"expected to read {path}: {error.strerror or error}") from error
    except Exception as error:  # of protobuf and ONNX, which have no common base
        raise BuildError(
            f"expected an ONNX network, but {path} is none: {first_line(error)}; copy or export it again"
        ) from error
    return model


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Infer the shapes of outputs that have none, which the checker demands and ONNX Runtime doesn't."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)


def _free_constants(model: onnx.ModelProto) -> None:
    """Takes constants from the inputs, where files of IR 3 list them: a pass that drops one would leave an input."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, _FREE_CONSTANTS_IR)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """``graph`` and the bodies of its conditions and loops; names are unique among all of them."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from graphs(body)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def reads(node: NodeProto) -> list[str]:
    """Names of the tensors that ``node`` reads, those that only its bodies read included."""
    parts = [part for body in _bodies(node) for part in graphs(body)]
    inner = [
        [*(name for each in part.node for name in each.input), *(value.name for value in part.output)]
        for part in parts
    ]
    return [*node.input, *(name for names in inner for name in names)]


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of ``graph`` and of those bodies."""
    for part in graphs(graph):
        yield from part.node


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for part in graphs(graph):
        yield from part.initializer
        yield from (item.t for node in part.node for item in node.attribute if item.HasField("t"))


def _names(graph: GraphProto) -> Iterator[str | bytes]:
    for part in graphs(graph):
        yield from (value.name for value in [*part.input, *part.output, *part.value_info, *part.initializer])
        for node in part.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (item.name for item in node.attribute)
