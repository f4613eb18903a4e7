"""Networks that take one image alone: their ONNX graph stays so, and their twin takes any number of images.

In the twin, a node that would mix images, or that fails on several, is run for each image alone, and its results are
joined along the first axis. All others run on all images together: a batch norm sees the statistics of a batch, and
whatever reads a value of the twin finds those of all images in it.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from converter.graph.twin.values import tensor_like

SCALAR = "one_number_an_image"
"""Key of the ``meta`` of a node whose value has no axes in the ONNX graph, but one of the images in the twin."""
_ATTEMPTS = 2, 3
"""Images at once, for which a node that takes any number has to say the same as for each."""
_CLOSE = 1e-4
"""Part of the largest value, up to which a difference is one of rounding."""


def takes_one_image(model: onnx.ModelProto) -> bool:
    """Whether the input of ``model`` is a batch of 1."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1)


def with_sizes_of_one(model: onnx.ModelProto, batch: str) -> onnx.ModelProto:
    """A copy of ``model``, which takes one image, whose axes of ``batch`` or ``12*batch`` images are 1 or 12 long."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.value_info, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if found := re.fullmatch(rf"(?:(\d+)\*)?{batch}", dim.dim_param):
                dim.dim_value = int(found[1] or 1)
    return fixed


def image_by_image(twin: fx.GraphModule, x: Tensor) -> fx.GraphModule:
    """``twin``, whose graph takes one image such as ``x`` [1, ...], changed in place to take any number of them."""
    found = _Dependent(twin)
    with torch.no_grad():
        found.run(x)
    for number, (node, alone) in enumerate(found.alone.items()):
        node.op, node.target = "call_module", f"image_by_image.{number}"
        twin.add_submodule(node.target, alone)
    for node in found.scalars:
        node.meta[SCALAR] = True
    twin.graph.lint()
    twin.recompile()
    return twin


class _Alone(nn.Module):
    """``function`` for each image alone.

    ``rows`` has for each argument how long its first axis is for one image: 0 for a single number, None for an argument
    that is the same for all images.
    """

    def __init__(self, function: Callable[..., Any], rows: Sequence[int | None]) -> None:
        super().__init__()
        self.function, self.rows = function, tuple(rows)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        pairs = list(zip(args, self.rows, strict=True))
        images = next(len(arg) // (rows or 1) for arg, rows in pairs if rows is not None)

        def result(image: int) -> Any:
            own = (arg if rows is None else _of_image(arg, rows, image) for arg, rows in pairs)
            return self.function(*own, **keywords)

        first = result(0)
        if not _holds_tensors(first):  # of a shape, which all images have
            return first
        return _joined([first, *map(result, range(1, images))])


def _of_image(value: Tensor, rows: int, image: int) -> Tensor:
    return value.narrow(0, image * rows, rows) if rows else value[image]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and isinstance(value[0], Tensor))


def _joined(results: list[Any]) -> Any:
    """The results for single images as one; parts of a tuple each by themselves."""
    if isinstance(results[0], tuple):
        return tuple(map(_joined, map(list, zip(*results, strict=True))))
    return torch.cat(results) if results[0].ndim else torch.stack(results)


class _Dependent(fx.Interpreter):
    """Runs a twin on one image and keeps the nodes that have to run for each ``alone``.

    ``of_images`` are the nodes whose tensors depend on the image, ``scalars`` those that are a single number.
    """

    def __init__(self, twin: fx.GraphModule) -> None:
        super().__init__(twin)
        self.of_images: set[fx.Node] = set()
        self.alone: dict[fx.Node, _Alone] = {}
        self.scalars: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        args, keywords = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        sources = [arg in self.of_images for arg in n.args] if n.target is not tensor_like else []
        if n.op == "placeholder" or any(sources):
            if _holds_tensors(value):
                self.of_images.add(n)
            if isinstance(value, Tensor) and value.ndim == 0:
                self.scalars.append(n)
        if n.op == "call_function" and any(sources) and n.target is not operator.getitem:
            rows = [_rows(arg) if own else None for arg, own in zip(args, sources, strict=True)]
            alone = _Alone(n.target, rows)  # type: ignore[arg-type]
            if not _takes_any_number(alone, args, keywords):
                self.alone[n] = alone
        return value


def _rows(value: Tensor) -> int:
    return len(value) if value.ndim else 0


def _takes_any_number(alone: _Alone, args: Sequence[Any], keywords: dict[str, Any]) -> bool:
    """Whether the function of ``alone`` says the same of several images together.

    That is seen on random numbers of the arguments' shapes: what a network has in a place may be zero for all images.
    """
    random = torch.Generator().manual_seed(0)
    for images in _ATTEMPTS:
        several = [
            arg if rows is None else _several(arg, images, random)
            for arg, rows in zip(args, alone.rows, strict=True)
        ]
        expected = alone(*several, **keywords)
        try:
            found = alone.function(*several, **keywords)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
        if not _same(found, expected):
            return False
    return True


def _several(value: Tensor, images: int, random: torch.Generator) -> Tensor:
    if value.is_floating_point():
        shape = (images * len(value), *value.shape[1:]) if value.ndim else (images,)
        return torch.rand(shape, generator=random, dtype=value.dtype)
    return _joined([value] * images)  # type: ignore[no-any-return]


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return all(map(_same, found, expected))
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    largest = float(expected.abs().nan_to_num(posinf=0).max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0, atol=_CLOSE * largest, equal_nan=True)
