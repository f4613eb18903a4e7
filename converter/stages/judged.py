"""What is compared of an engine: its own outputs, where they tell, else those of the network before its tail."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from calibrators.data.batches import random_pixels
from converter.graph.capture import same
from converter.graph.tail import Tail
from converter.job import Job
from converter.stages.build import Deployed
from converter.stages.head import head_file
from converter.trust.answers import in_parts, network_of
from converter.trust.fp32 import fp32_network
from converter.trust.task.base import Network, Outputs, Task
from converter.trust.task.mask import Mask
from converter.workspace import FP32_ONNX, INT8_ONNX
from engines.base import Engine
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine

_IMAGES = 4


@dataclass(frozen=True)
class Judged:
    """Both networks, and what their outputs, called ``names``, mean.

    ``int8`` has all layers in INT8 that the INT8 ONNX has there; ``partly_float`` is the engine where that has not.
    """

    fp32: Network
    int8: Network
    task: Task
    names: Sequence[str]
    partly_float: Network | None = None


def judged_networks(job: Job, deployed: Deployed, stack: ExitStack) -> Judged:
    """FP32 and the engine, open until ``stack`` closes.

    Where the engine has layers in float because these are faster so on this machine, the network with all of them in
    INT8 is judged in its place: what INT8 costs does not depend on the machine.
    """
    tail, names = job.teacher.tail, tuple(job.teacher.probe)
    path = stack.enter_context(head_file(job, FP32_ONNX))
    fp32 = stack.enter_context(fp32_network(job.teacher.module, job.device, path))
    if deployed.in_float:
        if tail is not None and not deployed.ends_before_tail and not gives_head_outputs(tail):
            say_before_the_end(job, tail)
        int8, own = head_engine(job, stack, INT8_ONNX), FP32_ONNX if deployed.is_fp32 else INT8_ONNX
        return Judged(fp32, int8, job.task, names, head_engine(job, stack, own, deployed.in_float))
    if tail is None or deployed.ends_before_tail:
        int8 = chosen_outputs(job, stack.enter_context(deployed.open()))
        return Judged(fp32, int8, job.task, names)
    given = [value.name for value in tail.outputs]
    if gives_head_outputs(tail):
        engine = stack.enter_context(deployed.open())
        positions = [given.index(name) for name in tail.head_outputs]
        return Judged(fp32, chosen_outputs(job, engine, positions), job.task, names)
    position = class_map_position(job, tail, fp32)
    if position is None:
        say_before_the_end(job, tail)
        return Judged(fp32, head_engine(job, stack, INT8_ONNX), job.task, names)
    engine = stack.enter_context(deployed.open())

    def class_maps(x: NDArray[np.float32]) -> Outputs:
        return (np.stack(job.task.answers(fp32(x))),)

    int8 = chosen_outputs(job, engine, [position])
    return Judged(class_maps, int8, Mask(None), [given[position]])


def gives_head_outputs(tail: Tail) -> bool:
    """Whether the whole network's outputs hold the values that its end chooses of."""
    return set(tail.head_outputs) <= {value.name for value in tail.outputs}


def say_before_the_end(job: Job, tail: Tail) -> None:
    """Say that it is not the engine's own outputs that are compared."""
    job.console.info(
        f"note: agreement and accuracy are measured before the graph's end ({', '.join(tail.chosen_by)}), in ONNX "
        "Runtime; the engine's own outputs are what the end chooses of these values"
    )


def chosen_outputs(job: Job, engine: Engine, positions: Sequence[int] | None = None) -> Network:
    """``engine`` for batches of any size, as far as it gives the outputs at ``positions``; all without these."""
    network = network_of(engine, positions)
    if isinstance(engine, OnnxRuntimeEngine):
        return network
    return in_parts(network, job.options.build.min_batch, job.options.build.max_batch)


def class_map_position(job: Job, tail: Tail, fp32: Network) -> int | None:
    """Which output of the whole network holds the classes of the pixels; None where none does."""
    if not isinstance(job.task, Mask) or tail.foreign or tail.sized_by_values:
        return None
    x = random_pixels(job.teacher.spec, _IMAGES, job.seed).numpy()
    expected = np.stack(job.task.answers(fp32(x)))
    with OnnxRuntimeEngine(job.workspace.path(FP32_ONNX)) as engine:
        outputs = network_of(engine)(x)
    for position, output in enumerate(outputs):
        maps = output.size == expected.size and output.shape[-2:] == expected.shape[-2:]
        if maps and same(output.reshape(expected.shape).astype(expected.dtype), expected):
            return position
    return None


def head_engine(job: Job, stack: ExitStack, name: str, in_float: Collection[str] = ()) -> Network:
    """The network of the file ``name`` before its tail in ONNX Runtime, with the layers ``in_float``."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    with head_file(job, name) as source:
        path = onnxruntime.build(source, folder / name, in_float)
    return network_of(stack.enter_context(OnnxRuntimeEngine(path)))
