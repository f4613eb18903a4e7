"""Which constants of an ONNX graph are parameters: a file doesn't say what was trained."""

from collections.abc import Sequence

from converter.graph.twin.table import Node

# Inputs where layers have what they learn.
_SLOTS = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
_REARRANGE = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_BEFORE_BIAS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def learnable_names(nodes: Sequence[Node]) -> frozenset[str]:
    """Names of all that stands where a layer has weights, also before it is reshaped or transposed.

    What is added to a product counts as its bias. An anchor, a mean pixel or a mask does not: nobody trained it.
    """
    made = {name: node for node in nodes for name in node.outputs}
    open_names = []
    for node in nodes:
        open_names += [node.inputs[i] for i in _SLOTS.get(node.op, ()) if i < len(node.inputs)]
        if node.op == "Add" and any(name in made and made[name].op in _BEFORE_BIAS for name in node.inputs):
            open_names += node.inputs
    found = set[str]()
    while open_names:
        name = open_names.pop()
        if name and name not in found:
            found.add(name)
            if name in made and made[name].op in _REARRANGE:
                open_names.append(made[name].inputs[0])
    return frozenset(found)
