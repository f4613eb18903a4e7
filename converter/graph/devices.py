"""Moving a network whose forward may be a graph that names devices."""

from typing import Any

import torch
from torch import fx, nn


def move(module: nn.Module, device: torch.device | str) -> nn.Module:
    """``module`` itself on ``device``, together with what its forward makes.

    An exported graph has the device that it was exported on written into it, in each ``arange``, ``zeros`` and copy.
    """
    target = torch.empty(
        0, device=device
    ).device  # with its number: a graph that asks for cuda refuses cuda:0

    def replaced(argument: Any) -> Any:
        return target if isinstance(argument, torch.device) else argument

    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, replaced)
                node.kwargs = fx.node.map_aggregate(node.kwargs, replaced)
            part.recompile()
    return module.to(target)
