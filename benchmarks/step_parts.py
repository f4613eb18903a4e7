"""What a training step of the generator is made of: processor time by part, beside the processor's multiply-add limit.

    python benchmarks/step_parts.py yolo-fastestv2.onnx --preset unit
    python benchmarks/step_parts.py resnet20.th --arch FILE.py:resnet20 --input-shape 3x32x32

Each part runs alone, forward and back, and all take turns, so that a busy machine slows them alike; a row has the
median of the turns. ``OMP_NUM_THREADS=1`` makes processor times comparable. The last column is what a matrix product of
the same number of multiply-adds takes.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from tasks import numbers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from calibrators.distributed import SINGLE
from calibrators.zscgan.batch_norm import BatchStatistics, targets_from_model
from calibrators.zscgan.layout import fastest_form
from calibrators.zscgan.losses import pixel_loss
from calibrators.zscgan.training import draw_pairs, new_config, new_state, train_step
from converter.console import Console
from converter.graph.outputs import tensors_of
from converter.job import Job, job_from_options
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.stages.synthesis import LabelsOf

Part = Callable[[], object]
SIDE = 1024
"""Of the matrices by which the limit is measured."""


def parts_of(job: Job) -> dict[str, Part]:
    """Name -> what runs a part of a step once."""
    options, spec = job.options.synthesis, job.teacher.spec
    state = new_state(new_config(spec, job.task.classes, options), options, job.device)
    teacher, layout = fastest_form(LabelsOf(job.teacher.module, job.task), spec.shape)
    assert isinstance(teacher, LabelsOf)
    labels_of = teacher
    batch, generator = options.batch_for(*spec.shape[1:]), state.generator.train()
    z, labels = draw_pairs(generator.config, batch, options.seed, 0, job.device)
    pixels = generator.pixels(z, labels).detach().requires_grad_()
    weight = torch.randn_like(pixels)
    x = generator.inputs(pixels.detach()).contiguous(memory_format=layout).requires_grad_()

    def whole() -> None:
        with BatchStatistics(teacher) as statistics:
            targets = targets_from_model(teacher)
            train_step(state, teacher, layout, statistics, targets, options, batch, SINGLE)

    def make() -> None:
        (generator(z, labels) * weight).sum().backward()

    def measure() -> None:
        with BatchStatistics(teacher) as statistics:
            logits = teacher(x)
            moments = statistics.moments().values()
            back(logits.sum() + sum(mean.sum() + variance.sum() for mean, variance in moments))

    def run() -> None:
        back(sum(output.sum() for output in tensors_of(labels_of.network(x)) if output.is_floating_point()))

    def judge() -> None:
        back(pixel_loss(pixels, generator.mean, 0.5, 15.0))

    def back(loss: Any) -> None:
        x.grad = pixels.grad = None
        loss.backward()

    print(
        f"{layout}, batch {batch}, {sum(p.numel() for p in generator.parameters())} weights of the generator"
    )
    return {
        "a whole step": whole,
        "the generator": make,
        "the network, with its batch-norm statistics": measure,
        "the network, without them": run,
        "variety and image prior": judge,
        "the optimizer": state.optimizer.step,
    }


def multiply_adds(part: Part) -> float:
    """How many multiply-adds of layers and products ``part`` takes."""
    with FlopCounterMode(display=False) as counter:
        part()
    return float(counter.get_total_flops()) / 2


def turns(parts: dict[str, Part], count: int) -> dict[str, float]:
    """Name -> median processor time in seconds."""
    seen: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(count):
        for name, part in parts.items():
            started = time.process_time()
            part()
            seen[name].append(time.process_time() - started)
    return {name: median(times) for name, times in seen.items()}


def given() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    for name in ("--arch", "--input-shape", "--preset", "--mean", "--std"):
        parser.add_argument(name)
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    args = given()
    shape = None if args.input_shape is None else tuple(map(int, args.input_shape.split("x")))
    model = ModelOptions(
        model=args.model,
        arch=args.arch,
        input_shape=shape,  # type: ignore[arg-type]
        preset=args.preset,
        mean=numbers(args.mean),
        std=numbers(args.std),
    )
    job = job_from_options(ConvertOptions(model=model, engine="onnxruntime"), Console())
    parts = parts_of(job)
    counted = {name: multiply_adds(part) for name, part in parts.items()}
    matrices = nn.Parameter(torch.randn(2, SIDE, SIDE), requires_grad=False)
    limit = "a matrix product"
    times = turns({**parts, limit: lambda: matrices[0] @ matrices[1]}, args.turns)
    a_second, step = SIDE**3 / times.pop(limit), times["a whole step"]
    print(f"{a_second / 1e9:.1f} G multiply-adds a second in a matrix product")
    for name, seconds in times.items():
        least = counted[name] / a_second
        print(
            f"{name:<44} {seconds:7.3f} s {100 * seconds / step:4.0f} %  {counted[name] / 1e9:6.2f} G, {least:.3f} s"
        )


if __name__ == "__main__":
    main()
