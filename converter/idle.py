"""Nodes that change nothing, taken out of an exported graph."""

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
# Operator -> the scalar with which it gives its first argument back.
_NEUTRAL: dict[object, int] = {
    _aten.mul.Tensor: 1,
    _aten.mul_.Tensor: 1,
    _aten.mul.Scalar: 1,
    _aten.div.Tensor: 1,
    _aten.div_.Tensor: 1,
    _aten.add.Tensor: 0,
    _aten.add_.Tensor: 0,
    _aten.sub.Tensor: 0,
    _aten.sub_.Tensor: 0,
    _aten.pow.Tensor_Scalar: 1,
}
_COPIES = {_aten.alias.default, _aten.clone.default, _aten.contiguous.default, _aten.detach.default}
_DROPOUTS = {_aten.dropout.default, _aten.dropout_.default, _aten.feature_dropout.default}


def drop_idle_nodes(module: fx.GraphModule) -> int:
    """Number of nodes that were taken out of ``module``, in place: x * 1, x + 0, copies, dropout in eval mode.

    The ONNX exporter drops them too, and then the names of the two graphs part: a forward that ends in
    ``return logits * scale`` with ``scale=1.0`` is one.
    """
    dropped = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            dropped += 1
    module.recompile()
    return dropped


def _is_idle(node: fx.Node) -> bool:
    """Whether the node's value is its first argument, in type, shape and every number."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    before, after = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.dtype != after.dtype:
        return False
    if node.target in _DROPOUTS:
        return node.args[2] is False
    scalar = node.args[1] if len(node.args) > 1 else None
    if node.target in _COPIES:  # a copy in another memory order is what a view behind it needs
        return bool(before.is_contiguous() and after.is_contiguous())
    neutral = _NEUTRAL.get(node.target)
    return neutral is not None and not node.kwargs and isinstance(scalar, int | float) and scalar == neutral
