"""The batch of an ONNX file that was exported for a fixed one, made free inside of the graph too.

Exporters write the batch into constants: the shape of a Reshape, the sizes of a Resize, a class token that is
concatenated to the patches of each image. Which of them hold it is seen by running the graph with one batch and with
two: where the result did not grow along the axis on which the images lie, the constant is replaced by one that leaves
this axis open, or by one that is computed from the shape of another value.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from converter.graph.capture import BATCH
from converter.graph.twin import twin_from_onnx, value_name
from converter.graph.twin.indexing import gather
from converter.graph.twin.resize import resize
from converter.graph.twin.shapes import concat, expand, reshape, squeeze, unsqueeze
from converter.graph.twin.values import as_list

Shape = tuple[int, ...]

_IN_FRONT = -1
"""In place of an axis: a value has none for the images, and now gets one in front of the others."""
_AXES = frozenset({"axes", "axis", "perm"})
_WHOLE = -1
"""In place of an input's position: the node hands on what it gets."""


def with_free_shapes(
    model: onnx.ModelProto, batch: int, sizes: Sequence[int]
) -> tuple[onnx.ModelProto, str | None]:
    """``model`` with what fixes its batch made free, and the node where that failed, if any.

    ``model`` was made for ``batch`` images of ``sizes`` (channels, height, width) each, is of opset 13 or newer, and
    has a free first axis at its input already; what it says of ``batch`` images stays the same. Where some node fixes
    the batch for good, all stays as it is.
    """
    twin = twin_from_onnx(model)
    x = torch.rand(batch, *sizes, generator=torch.Generator().manual_seed(0))
    single = _Values(twin)
    double = _Doubled(twin, single.values, batch)
    # Of what fails with any batch: the twin's own run tells of it.
    with torch.no_grad(), suppress(_StuckError, RuntimeError, ValueError, IndexError, TypeError):
        single.run(x)
        double.run(torch.cat([x, x]))
        return _edited(model, double.edits), None
    return model, _label(model, double.stuck)


class _StuckError(Exception):
    """A value doesn't hold all images, and nothing is known that would change it."""


def _label(model: onnx.ModelProto, value: str) -> str | None:
    return next(
        (f"{node.name or value} ({node.op_type})" for node in model.graph.node if value in node.output), None
    )


@dataclass(frozen=True)
class _Edit:
    """What ``position``, an input of the node that makes a value, becomes.

    That is the constant ``numbers``, unless ``like`` is given.

    ``axis`` is the axis of the images. With ``like``, a value that has it too, ``numbers`` are sizes of which that one
    is taken from ``like``; with ``expands`` they are rather a constant, which is repeated for each image.
    """

    position: int
    numbers: np.ndarray
    axis: int = 0
    like: str = ""
    expands: bool = False


class _Values(fx.Interpreter):
    """Runs a twin and keeps all values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        self.values[node] = value = super().run_node(node)
        return value


class _Doubled(fx.Interpreter):
    """Runs a twin with twice the images and notes what has to be changed for that; raises _StuckError.

    An axis of images may also hold the places of a sequence, or windows, around them; ``outer`` counts these. Where a
    network takes its only image out of the batch, the images stay on an axis in front (``_IN_FRONT``).
    """

    def __init__(self, module: fx.GraphModule, single: dict[fx.Node, Any], batch: int) -> None:
        super().__init__(module)
        self.single, self.batch = single, batch
        self.edits: dict[str, list[_Edit]] = {}
        self.outer: dict[fx.Node, int] = {}
        self.stuck = ""

    def run_node(self, node: fx.Node) -> Any:
        if node.op in ("placeholder", "output", "get_attr"):
            return super().run_node(node)
        sources = [source for source in node.all_input_nodes if self._axis(source) is not None]
        try:
            value = super().run_node(node)
        except (RuntimeError, ValueError, IndexError, TypeError):
            if not sources:
                raise
            value = None
        once = self.single[node]
        if not sources or not isinstance(once, Tensor):
            return value if value is not None else self._stuck(node)
        expected = self._expected_axis(node, sources)
        grown = self._grown(once, value) if isinstance(value, Tensor) else None
        # PyTorch leaves axes alone that can't be squeezed; a Squeeze without axes takes that of one image.
        if grown is not None and expected in (None, grown) and node.target is not squeeze:
            return value
        edits = None if expected is None else self._repair(node, expected)
        if edits is None or expected is None:
            return self._stuck(node)
        self.edits[value_name(node)] = edits
        return torch.stack([once, once]) if expected == _IN_FRONT else torch.cat([once, once], expected)

    def _stuck(self, node: fx.Node) -> Any:
        self.stuck = value_name(node) or next(iter(map(value_name, node.users)), "")
        raise _StuckError

    def _axis(self, node: fx.Node) -> int | None:
        """Along which axis ``node`` holds the images; None for what is the same for any number of them."""
        once, twice = self.single[node], self.env[node]
        return self._grown(once, twice) if isinstance(once, Tensor) else None

    def _grown(self, once: Tensor, twice: Tensor) -> int | None:
        """The only axis along which ``twice`` is twice as long as ``once``, or that it has in front."""
        if self.batch == 1 and twice.shape == (2, *once.shape):
            return _IN_FRONT
        if once.ndim != twice.ndim:
            return None
        longer = [axis for axis, (a, b) in enumerate(zip(once.shape, twice.shape, strict=True)) if a != b]
        return longer[0] if len(longer) == 1 and twice.shape[longer[0]] == 2 * once.shape[longer[0]] else None

    def _expected_axis(self, node: fx.Node, sources: list[fx.Node]) -> int | None:
        """Where the images lie in the result of ``node``, of whose inputs ``sources`` hold them; None for anywhere."""
        source, axis = sources[0], self._axis(sources[0])
        assert axis is not None
        before, after = tuple(self.single[source].shape), tuple(self.single[node].shape)
        outer = self.outer.get(source, 1)
        if node.target is reshape:
            outside = 1 if axis == _IN_FRONT else math.prod(before[:axis]) * outer
            axis = self._axis_behind(outside, after, gone=axis == _IN_FRONT)
            self.outer[node] = outside // math.prod(after[: max(axis, 0)])
            return axis
        if any(self._axis(source) == _IN_FRONT for source in sources):
            if node.target is unsqueeze and _numbers(node.args[1]) == [0]:
                return 0
            if len(after) != len(before) or node.kwargs.keys() & _AXES:  # axes are counted from the front
                self._stuck(node)
            return _IN_FRONT
        if before[axis] in after:
            self.outer[node] = outer
        if node.target in (concat, expand, resize):
            return axis
        if node.target is squeeze:
            axes = self._squeezed(node)
            return _IN_FRONT if axis == 0 and 0 in axes else axis - sum(place < axis for place in axes)
        takes_first = node.target is gather and node.args[1] == 0 and node.kwargs.get("axis", 0) == 0
        return _IN_FRONT if takes_first and self.batch == 1 and axis == 0 else None

    def _axis_behind(self, outside: int, shape: Shape, *, gone: bool) -> int:
        """Which axis of ``shape`` holds the images, of which all go by before one of ``outside`` places changes."""
        places = [place for place in range(len(shape)) if math.prod(shape[:place]) == outside]
        if exact := [place for place in places if shape[place] == self.batch]:
            return exact[0]
        if gone or (self.batch == 1 and len(shape) <= 1):
            return _IN_FRONT
        # The last axis is what layers take as features; images lie on the one before it.
        if places and (places[0] < len(shape) - 1 or places[0] == 0):
            return places[0]
        return next(place for place in range(len(shape)) if math.prod(shape[: place + 1]) >= outside)

    def _repair(self, node: fx.Node, axis: int) -> list[_Edit] | None:
        """What gives ``node`` its images on ``axis``; None where nothing is known that does."""
        shape = np.array(self.single[node].shape, np.int64)
        if node.target is reshape:
            return [
                _Edit(
                    1, np.array([-1, *shape]) if axis == _IN_FRONT else np.where(_is(axis, shape), -1, shape)
                )
            ]
        if node.target is expand and axis != _IN_FRONT:
            return [_Edit(1, np.where(_is(axis, shape), 1, shape))]
        if node.target is resize and axis != _IN_FRONT:
            return [_Edit(3, shape, axis, like=value_name(node.all_input_nodes[0]))]
        if node.target is squeeze:
            axes = [place for place in self._squeezed(node) if place > 0 or axis != _IN_FRONT]
            return [_Edit(1, np.array(axes, np.int64))] if axes else [_Edit(_WHOLE, shape)]
        if node.target in (gather, unsqueeze):
            return [_Edit(_WHOLE, shape)]
        return self._expanded_parts(node, axis) if node.target is concat and axis != _IN_FRONT else None

    def _shape_before(self, node: fx.Node) -> Shape:
        return tuple(self.single[node.all_input_nodes[0]].shape)

    def _squeezed(self, node: fx.Node) -> list[int]:
        """The axes that a Squeeze takes away from one batch."""
        if len(node.args) > 1:
            return [axis % len(self._shape_before(node)) for axis in _numbers(node.args[1])]
        return [axis for axis, size in enumerate(self._shape_before(node)) if size == 1]

    def _expanded_parts(self, node: fx.Node, axis: int) -> list[_Edit] | None:
        """The parts of a Concat that are alike for each image, repeated for each."""
        parts = [part for part in node.args if isinstance(part, fx.Node)]
        like = next((value_name(part) for part in parts if self._axis(part) == axis), "")
        edits = []
        for position, part in enumerate(parts):
            if self._axis(part) == axis:
                continue
            value = self.single[part]
            first = value.narrow(axis, 0, 1)
            constant = (
                part.op == "get_attr" and value.shape[axis] == self.batch and bool((value == first).all())
            )
            if not like or not constant or node.kwargs.get("axis") in (axis, axis - value.ndim):
                return None
            edits.append(_Edit(position, first.numpy(), axis, like, expands=True))
        return edits


def _is(axis: int, shape: np.ndarray) -> np.ndarray:
    return np.asarray(np.arange(len(shape)) == axis)


def _numbers(argument: Any) -> list[int]:
    """The numbers of an argument that is known when the twin is built; none for another one."""
    return [] if isinstance(argument, fx.Node) else as_list(argument)


def _edited(model: onnx.ModelProto, edits: dict[str, list[_Edit]]) -> onnx.ModelProto:
    """A copy of ``model`` with ``edits`` of the nodes that make these values."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    if not edits:
        return free
    del free.graph.node[:], free.graph.value_info[:]
    for value in free.graph.output:  # inferred when the batch was fixed inside
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for edit in edits.get(node.output[0], []):
            if edit.position == _WHOLE:
                node = helper.make_node("Identity", [original.input[0]], original.output, original.name)
                continue
            stem = f"{node.output[0]}_any_batch_{edit.position}"
            free.graph.node.extend(_written(free.graph, edit, stem))
            node.input.extend([""] * (edit.position + 1 - len(node.input)))
            node.input[edit.position] = stem
        free.graph.node.append(node)
    read = {name for node in free.graph.node for name in node.input}
    unread = [tensor for tensor in free.graph.initializer if tensor.name not in read]
    for tensor in unread:
        free.graph.initializer.remove(tensor)
    return free


def _written(graph: onnx.GraphProto, edit: _Edit, stem: str) -> list[onnx.NodeProto]:
    """The nodes that make the value ``stem`` of ``edit``; constants go into ``graph``."""

    def constant(numbers: np.ndarray, name: str) -> str:
        graph.initializer.append(numpy_helper.from_array(numbers, name))
        return name

    if not edit.like:
        constant(edit.numbers, stem)
        return []
    sizes = np.array(edit.numbers.shape if edit.expands else edit.numbers, np.int64)
    parts = [f"{stem}_images"]
    if edit.axis > 0:
        parts.insert(0, constant(sizes[: edit.axis], f"{stem}_before"))
    if edit.axis + 1 < len(sizes):
        parts.append(constant(sizes[edit.axis + 1 :], f"{stem}_after"))
    bounds = [constant(np.array([edit.axis + end]), f"{stem}_{end}") for end in (0, 1)]
    shape = f"{stem}_sizes" if edit.expands else stem
    nodes = [
        helper.make_node("Shape", [edit.like], [f"{stem}_shape"], f"{stem}_shape"),
        helper.make_node("Slice", [f"{stem}_shape", *bounds], [f"{stem}_images"], f"{stem}_images"),
        helper.make_node("Concat", parts, [shape], shape, axis=0),
    ]
    if edit.expands:
        inputs = [constant(edit.numbers, f"{stem}_one"), shape]
        nodes.append(helper.make_node("Expand", inputs, [stem], stem))
    return nodes
