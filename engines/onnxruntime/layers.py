"""The layers of a Q/DQ network that can compute in INT8 or in float, what belongs to each, and what is between them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from onnx import NodeProto

from engines.onnx_passes.file import reads
from engines.onnx_passes.graph import OnnxGraph

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Border:
    """A tensor that the layer ``writer`` makes and the layer ``reader`` takes, of ``values`` numbers an image."""

    writer: str
    reader: str
    values: int


class Layers:
    """The layers of a graph by their first outputs, in the graph's order; ``graph.nodes`` must be sorted.

    ``quantized`` read an activation in a Q/DQ pair. A node that is no layer belongs to the last of the layers that
    it depends on, as it runs behind that one: an activation to its convolution, an Add to the later branch. What
    depends on the input alone belongs to the input, which counts as a layer that is float.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        producers = graph.producers()
        layers = [node for node in graph.nodes if node.op_type in LAYERS]
        self.quantized = tuple(node.output[0] for node in layers if _reads_pair(node, producers, graph))
        self._owners = _owners(graph, {node.output[0] for node in layers})

    @property
    def owners(self) -> Mapping[str, str]:
        """Tensor → the layer that it belongs to; constants are absent."""
        return self._owners

    @cached_property
    def borders(self) -> tuple[Border, ...]:
        """What each layer takes of others, each tensor once a pair of layers, whatever its Q/DQ pairs."""
        producers, found = self._graph.producers(), dict[tuple[str, str, str], Border]()
        for node in self._graph.nodes:
            if node.op_type in _PAIR:
                continue
            for name in reads(node):
                writer, reader = self._owners.get(name), self._owners.get(node.output[0])
                if writer is None or reader is None or writer == reader:
                    continue
                tensor = _unquantized(name, producers)
                found[writer, reader, tensor] = Border(writer, reader, self._values(tensor))
        return tuple(found.values())

    def release(self, in_float: Collection[str]) -> None:
        """Takes the Q/DQ pairs out of ``graph`` between what is float where the layers ``in_float`` are.

        Behind an INT8 layer the pair stays, so that this one and its readers give the numbers that they gave.
        """
        integer = set(self.quantized).difference(in_float)
        producers, consumers = self._graph.producers(), self._graph.consumers()
        for node in self._graph.nodes:
            quantizer = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if quantizer is None or quantizer.op_type != "QuantizeLinear":
                continue
            tensor = quantizer.input[0]
            if self._owners.get(tensor) in integer:
                continue
            for reader in consumers[node.output[0]]:
                if self._owners.get(reader.output[0]) not in integer:
                    reader.input[:] = [tensor if name == node.output[0] else name for name in reader.input]

    def _values(self, tensor: str) -> int:
        shape = self._graph.shapes.get(tensor) or ()
        return prod(size or 1 for size in shape[1:])


def _reads_pair(node: NodeProto, producers: Mapping[str, NodeProto], graph: OnnxGraph) -> bool:
    """Whether both operands are dequantized, the first of them an activation."""
    first, second = (producers.get(name) for name in node.input[:2])
    if first is None or second is None or not first.op_type == second.op_type == "DequantizeLinear":
        return False
    return first.input[0] not in graph.constants


def _owners(graph: OnnxGraph, layers: Collection[str]) -> dict[str, str]:
    owners = {name: name for name in graph.inputs if name not in graph.constants}
    order = {name: position for position, name in enumerate(owners)}
    for node in graph.nodes:
        found = [owners[name] for name in reads(node) if name in owners]
        if not found:
            continue
        if node.output[0] in layers:
            owner = node.output[0]
            order[owner] = len(order)
        else:
            owner = max(found, key=order.__getitem__)
        owners.update(dict.fromkeys((name for name in node.output if name), owner))
    return owners


def _unquantized(name: str, producers: Mapping[str, NodeProto]) -> str:
    """The tensor whose quantized value ``name`` is, or ``name``."""
    node = producers.get(name)
    while node is not None and node.op_type in _PAIR:
        name = node.input[0]
        node = producers.get(name)
    return name
