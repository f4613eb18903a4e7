"""What each quantizer costs alone, in one pass: the divergence of the outputs, and SQNR.

Let ``d`` be the error that quantizing one tensor makes in it, and ``g`` the gradient of the outputs' projection
on a random direction ``v``. To second order in the errors, for the logits of a classifier

    KL(p || p with the error) = 1/2 d' J' (diag p - p p') J d = 1/2 E (v' J d)^2 = 1/2 E (g . d)^2

for each input, where J is the Jacobian of the logits and ``v`` any random vector whose covariance is
``diag p - p p'``, the Fisher information of the logits (Amari, "Natural gradient works efficiently in learning",
1998; HAWQ-V2, arXiv 1911.03852, ranks layers by the trace of such a matrix instead of by ``d`` itself).
One backward pass gives ``g`` at every tensor at once, so every quantizer's share comes out of one forward and
one backward pass for each batch.

Usually ``v`` is the gradient of ``log p_y`` for a class ``y`` drawn from ``p``. A classifier that is sure of its
class almost always draws that one, and the few other draws carry all of the sum. ``direction`` has the same
covariance with random signs in place of classes, and where two classes share the probability, however unevenly,
one draw is exact. The heads of other tasks have Fisher informations of their own (``trust.task.heads``).

``g . d`` is linear in the error, so those of several quantizers add up input by input: ``Sensitivity.kl`` gives
the divergence of any set of them, with what they have in common.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float
from torch import Tensor, fx

from calibrators.ranges.scales import LEVELS, scale_from_amax
from converter.graph.capture import BATCH, FoldedGraph
from converter.graph.outputs import tensors_of
from converter.graph.twin import nodes_by_value, parameter_of, value_name
from converter.quantize.fake_quant import rounded_to_scale, rounded_weight
from converter.quantize.placement import QuantizationPlan
from converter.quantize.quantized_inputs import Part, parts_of
from converter.trust.task.base import Task
from converter.trust.task.heads import projection

BITS = 8


@dataclass(frozen=True)
class Sensitivity:
    """What the parts of a plan do to the outputs.

    ``effects[i, k]`` is ``g . d`` of input ``i`` and part ``k``. ``part_sqnr`` has the signal-to-noise ratio of
    each part's tensor in dB, ``layer_sqnr`` that of each layer's result when all its inputs are quantized.
    """

    parts: tuple[Part, ...]
    effects: Float[np.ndarray, "inputs parts"]
    part_sqnr: tuple[float, ...]
    layer_sqnr: Mapping[str, float]

    @cached_property
    def _columns(self) -> dict[Part, int]:
        return {part: column for column, part in enumerate(self.parts)}

    def effect(self, parts: Collection[Part]) -> Float[np.ndarray, "inputs"]:
        """``g . d`` of the errors of ``parts`` together; a part that the plan doesn't have counts for nothing.

        A max pool or Concat that runs on integers has one range on both sides: what is rounded before it is not
        rounded again behind it. Of such a pair the one behind counts, where ``parts`` has both.
        """
        wanted = frozenset(parts)
        chosen = [part for part in self.parts if part in wanted]
        behind = {(part.tensor, part.range_of) for part in chosen if part.kind == "activation"}
        columns = [
            self._columns[part]
            for part in chosen
            if part.kind == "weight" or (part.consumer, part.range_of) not in behind
        ]
        effect: Float[np.ndarray, "inputs"] = self.effects[:, columns].sum(axis=1)
        return effect

    def kl(self, parts: Collection[Part]) -> float:
        """Estimate of KL(FP32 || network with only ``parts`` quantized) in nats, averaged over the inputs."""
        return float(0.5 * np.mean(self.effect(parts) ** 2))


def sensitivity_from_graph(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: Mapping[str, float],
    task: Task,
    x: Float[Tensor, "inputs channels height width"],
    *,
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Sensitivity:
    """The effect of every quantizer of ``plan`` at 8 bits, on the inputs ``x``, one random direction each.

    ``amax`` has the range of every tensor in ``plan.observed``. Besides the forward and the backward pass each
    layer with weights runs twice more, for the errors of its result. ``on_batch`` gets the number of inputs done.
    """
    parts = parts_of(plan)
    follower = _Follower(graph, parts, amax, task)
    generator = torch.Generator().manual_seed(seed)
    effects, done = [], 0
    for some in x.split(batch_size):
        effects.append(follower.effects(some, generator))
        done += len(some)
        on_batch(done)
    return Sensitivity(
        parts,
        np.concatenate(effects),
        tuple(follower.part_power[part].sqnr_db for part in parts),
        {layer: power.sqnr_db for layer, power in follower.layer_power.items()},
    )


@dataclass
class _Power:
    """Sums of squares of a value and of its error."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, value: Tensor, error: Tensor) -> None:
        self.signal += float(torch.linalg.vector_norm(value)) ** 2
        self.noise += float(torch.linalg.vector_norm(error)) ** 2

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


class _Follower(fx.Interpreter):
    """Runs the graph and follows each part's error: its size on the way forward, its effect on the way back.

    An activation's error meets the gradient where its layer reads it. A weight's is made one of its layer's result,
    which is one of each input. Only that is kept until its gradient comes; an activation's is computed again.
    """

    def __init__(
        self, graph: FoldedGraph, parts: Sequence[Part], amax: Mapping[str, float], task: Task
    ) -> None:
        super().__init__(graph.module)
        self.task = task
        self.graph_module = graph.module
        self.nodes = nodes_by_value(graph.module)
        self.axes = batch_axes(graph.onnx)
        self.scales = {
            part: scale_from_amax(amax[part.range_of]) for part in parts if part.range_of is not None
        }
        self.weights = {part: self._quantized_weight(part) for part in parts if part.kind == "weight"}
        self.parts: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            self.parts[part.consumer].append(part)
        self.order = {part: column for column, part in enumerate(parts)}
        self.part_power = {part: _Power() for part in parts}
        self.layer_power = {layer: _Power() for layer in self.parts}
        for part, (_, value) in self.weights.items():
            exact = self._weight(part)
            self.part_power[part].add(exact, value - exact)
        self.products: dict[Part, Tensor] = {}
        self.batch = 0

    def effects(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> Float[np.ndarray, "batch parts"]:
        """``g . d`` for each input of a batch and each part."""
        self.batch, self.products = len(x), {}
        with torch.enable_grad():
            outputs = tensors_of(self.run(x.detach().requires_grad_()))
            projection(self.task.heads(outputs), generator).backward()  # type: ignore[no-untyped-call]
        columns = np.zeros((len(x), len(self.order)))
        for part, product in self.products.items():
            columns[:, self.order[part]] = product.double().cpu().numpy()
        return columns

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Parameters are constants here: their own gradients would double the time."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value

    def run_node(self, n: fx.Node) -> Any:
        parts = self.parts.get(value_name(n))
        if parts is None:
            return super().run_node(n)
        exact = {node: self.env[node] for node in n.all_input_nodes}
        read, quantized = dict(exact), dict(exact)
        for part in parts:
            if part.kind == "activation":
                source = self.nodes[part.tensor]
                read[source] = edge = exact[source].view_as(exact[source])
                quantized[source] = self._on_edge(part, edge)
            else:
                node, value = self.weights[part]
                quantized[node] = value
        result: Tensor = self._call(n, read)
        with torch.no_grad():
            for part in parts:
                if part.kind == "weight":
                    node, value = self.weights[part]
                    self._on_result(part, result, self._call(n, {**exact, node: value}).sub_(result))
            self.layer_power[value_name(n)].add(result, self._call(n, quantized).sub_(result))
        return result

    def _call(self, n: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        args, kwargs = fx.map_arg((n.args, n.kwargs), values.__getitem__)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _on_edge(self, part: Part, edge: Tensor) -> Tensor:
        """Waits for the gradient of an activation on its way into a layer; the quantized value."""
        with torch.no_grad():
            x, axis = edge.detach(), self.axes.get(part.tensor, 0)
            rounded = rounded_to_scale(x, self.scales[part], LEVELS)
            self.part_power[part].add(x, rounded - x)

        def on_gradient(gradient: Tensor) -> None:
            error = rounded_to_scale(x, self.scales[part], LEVELS).sub_(x)
            self._add_product(part, error, axis, gradient)

        edge.register_hook(on_gradient)
        return rounded

    def _on_result(self, part: Part, result: Tensor, error: Tensor) -> None:
        """Waits for the gradient of a layer's result, which a weight's error changes by ``error``."""
        result.register_hook(partial(self._add_product, part, error, self.axes.get(part.consumer, 0)))

    def _add_product(self, part: Part, error: Tensor, axis: int, gradient: Tensor) -> None:
        products = error.mul_(gradient).movedim(axis, 0).reshape(self.batch, -1).sum(dim=1)
        self.products[part] = self.products[part] + products if part in self.products else products

    def _weight(self, part: Part) -> Tensor:
        return parameter_of(self.graph_module, part.tensor).detach()

    def _quantized_weight(self, part: Part) -> tuple[fx.Node, Tensor]:
        """The node through which the layer of ``part`` reads its weight, and that node's quantized value."""
        assert part.axis is not None
        value = rounded_weight(self._weight(part), part.axis, BITS)
        return self.nodes[part.tensor], value


def batch_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis along which each declared value of ``model`` holds the inputs of a batch.

    An axis of ``12*batch`` counts, with the inputs outermost, as reshapes make it. Values without one are left out.
    """
    axes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if BATCH in dim.dim_param:
                axes[value.name] = axis
                break
    return axes
