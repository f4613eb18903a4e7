"""Squeezes without a list of axes, which would take a batch of one image away."""

from collections.abc import Sequence

import torch
from torch import fx

_aten = torch.ops.aten
_OF_ALL = {_aten.squeeze.default, _aten.squeeze_.default}
_OF_SOME = {_aten.squeeze.dim, _aten.squeeze_.dim, _aten.squeeze.dims, _aten.squeeze_.dims}


def has_squeezes(graph: fx.Graph) -> bool:
    """Whether there is a squeeze for ``keep_batch_axis`` to look at."""
    return any(node.target in _OF_ALL | _OF_SOME for node in graph.nodes)


def keep_batch_axis(module: fx.GraphModule) -> None:
    """Let each squeeze of an exported graph name its axes, in place: those that have size 1 for every batch.

    The network was exported for batches of any size but 1, at which PyTorch's own ``x.squeeze()`` gives a vector.
    One call an axis, as PyTorch exports several at once to an operator without a gradient.
    """
    for node in list(module.graph.nodes):
        if node.target not in _OF_ALL | _OF_SOME:
            continue
        x = node.args[0]
        shape = x.meta["val"].shape
        for axis in reversed(_axes(node, len(shape))):
            if isinstance(shape[axis], int) and shape[axis] == 1:
                with module.graph.inserting_before(node):
                    squeezed = module.graph.call_function(_aten.squeeze.dim, (x, axis))
                squeezed.meta["val"] = x.meta["val"].squeeze(axis)
                x = squeezed
        node.replace_all_uses_with(x)
        module.graph.erase_node(node)
    module.recompile()


def _axes(node: fx.Node, rank: int) -> Sequence[int]:
    """The axes that ``node`` takes away where they have size 1, counted from the front."""
    if node.target in _OF_ALL:
        return range(rank)
    given = node.args[1]
    return sorted(axis % rank for axis in (given if isinstance(given, list | tuple) else [given]))  # type: ignore[operator,misc]
