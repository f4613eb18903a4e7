"""Batch norms folded into the convolutions and linear layers before them, on an exported graph."""

import operator
from collections import defaultdict

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_aten = torch.ops.aten
_CONVOLUTIONS = {
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
}
_TRANSPOSED = {
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
}
_LINEAR = _aten.linear.default
_BATCH_NORM = _aten.batch_norm.default

# What decides the folded weights: names of weight and bias, of the norm's four tensors, and its eps.
_Key = tuple[str | None, str | None, str | None, str | None, str | None, str | None, float]


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Number of batch norms that were folded away; ``module``, an exported program's, is changed in place.

    ``y = (Wx + b - mean) / sqrt(var + eps) * gamma + beta`` becomes ``y = W'x + b'``, computed in float64 and
    rounded once. A batch norm is folded where it alone reads the output of a convolution (plain or
    transposed) or of a linear layer on a 2-d input; one that comes first, or that shares its input, stays.
    Weights keep their names; a layer without a bias gains one next to its weight. A layer that is called
    several times is folded once for each batch norm that follows it, each time from the original weights.
    """
    layers: dict[_Key, list[fx.Node]] = defaultdict(list)
    fused: dict[_Key, tuple[Tensor, Tensor]] = {}
    for norm in list(module.graph.nodes):
        layer = _foldable_layer(norm)
        if layer is None:
            continue
        key = _key(layer, norm)
        if key not in fused:
            fused[key] = _fused(module, layer, key)
        layers[key].append(layer)
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
    for same in layers.values():
        for layer in same:
            layer.args = (layer.args[0], None, None, *layer.args[3:])
    _erase_unread(module)
    for key, same in layers.items():
        _attach(module, same, key, fused[key])
    module.graph.lint()
    module.recompile()
    return sum(map(len, layers.values()))


def _foldable_layer(norm: fx.Node) -> fx.Node | None:
    """The layer whose output ``norm`` alone reads, if ``norm`` is a batch norm that can be folded into it."""
    if norm.target != _BATCH_NORM or _argument(norm, "training"):
        return None
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or len(layer.users) != 1:
        return None
    if layer.target == _LINEAR:
        # On a sequence the batch norm's channels are axis 1, not the layer's outputs.
        if layer.meta["val"].ndim != 2:
            return None
    elif layer.target not in _CONVOLUTIONS | _TRANSPOSED:
        return None
    constants = (*layer.args[1:3], *norm.args[1:5])
    known = all(c is None or (isinstance(c, fx.Node) and c.op == "get_attr") for c in constants)
    return layer if known else None


def _argument(node: fx.Node, name: str) -> object:
    """Value of a named argument of an ATen call, its default where the call leaves it out."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, argument.default_value)
    raise KeyError(name)


def _key(layer: fx.Node, norm: fx.Node) -> _Key:
    bias = layer.args[2] if len(layer.args) > 2 else None
    w, b, gamma, beta, mean, var = (
        str(c.target) if isinstance(c, fx.Node) else None for c in (layer.args[1], bias, *norm.args[1:5])
    )
    eps = _argument(norm, "eps")
    assert isinstance(eps, float)
    return (w, b, gamma, beta, mean, var, eps)


def _fused(module: fx.GraphModule, layer: fx.Node, key: _Key) -> tuple[Tensor, Tensor]:
    """Weight and bias of the folded layer, in the dtype of its weight."""

    def value(name: str | None) -> Tensor | None:
        tensor = operator.attrgetter(name)(module) if name is not None else None
        return tensor.detach().double() if isinstance(tensor, Tensor) else None

    weight, bias, gamma, beta, mean, var = map(value, key[:6])
    assert weight is not None
    assert mean is not None
    assert var is not None
    # torch's linear version has no default for the two.
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    bias = torch.zeros_like(mean) if bias is None else bias
    if layer.target == _LINEAR:
        parts = [fuse_linear_bn_weights(weight, bias, mean, var, key[6], gamma, beta)]
    elif layer.target in _TRANSPOSED:
        # Group by group: torch's function takes axis 1 of [in, out/groups, ...] for all of the outputs.
        groups = _argument(layer, "groups")
        assert isinstance(groups, int)
        chunks = (value.chunk(groups) for value in (weight, bias, mean, var, gamma, beta))
        parts = [
            fuse_conv_bn_weights(w, b, m, v, key[6], scale, shift, transpose=True)
            for w, b, m, v, scale, shift in zip(*chunks, strict=True)
        ]
    else:
        parts = [fuse_conv_bn_weights(weight, bias, mean, var, key[6], gamma, beta)]
    dtype = operator.attrgetter(str(key[0]))(module).dtype
    new_weight, new_bias = (torch.cat(values) for values in zip(*parts, strict=True))
    return new_weight.detach().to(dtype), new_bias.detach().to(dtype)


def _erase_unread(module: fx.GraphModule) -> None:
    """Take out the reads of parameters and buffers that nothing uses."""
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)


def _attach(module: fx.GraphModule, layers: list[fx.Node], key: _Key, values: tuple[Tensor, Tensor]) -> None:
    """Store the folded weight and bias and let ``layers`` read them.

    They take the original names unless something else still reads those.
    """
    weight_name = str(key[0])
    bias_name = f"{weight_name.removesuffix('weight')}bias"
    reads = []
    for name, value in zip((weight_name, bias_name), values, strict=True):
        free = _free_name(module, name)
        owner_name, _, leaf = free.rpartition(".")
        owner = module.get_submodule(owner_name)
        if hasattr(owner, leaf):
            delattr(owner, leaf)
        owner.register_parameter(leaf, nn.Parameter(value))
        with module.graph.inserting_before(next(iter(module.graph.nodes))):
            reads.append(module.graph.get_attr(free))
    for layer in layers:
        layer.args = (layer.args[0], *reads, *layer.args[3:])


def _free_name(module: fx.GraphModule, name: str) -> str:
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    candidates = (name, *(f"{name}_{count}" for count in range(1, len(read) + 2)))
    return next(candidate for candidate in candidates if candidate not in read)
