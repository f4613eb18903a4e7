"""The checks of ``gpu_check.py`` within one process: what a GPU computes beside what the CPU does, and how fast.

Each takes a ``Setting`` as JSON and gives ``{"figures": {...}, "wrong": [...]}``; ``wrong`` says what failed.
"""

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.backends import cuda, cudnn

from calibrators.data.input_spec import InputSpec
from calibrators.fingerprint import fingerprint
from calibrators.options import ALGORITHMS, CalibrationOptions
from calibrators.ranges.calibrate import observe_over, ranges_from_observed
from calibrators.ranges.histogram import HistogramCollector
from calibrators.zscgan import training
from calibrators.zscgan.batch_norm import batch_moments
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator, load_generator, save_generator
from calibrators.zscgan.successive import new_ensemble, train_ensemble
from engines.errors import EngineUnavailableError
from engines.memory import open_device
from engines.memory.base import Device

if TYPE_CHECKING:
    from converter.load.model import Teacher

# What loads ONNX and torchvision is imported by the checks that need it: most don't, and have few seconds.

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
FAMILIES = ("resnet18", "mobilenet_v2", "efficientnet_b0")
LOGITS, MOMENTS, RANGES = 1e-3, 1e-4, 1e-3
"""Largest relative differences from the CPU that rounding explains."""
SETTINGS = {
    "exact": (False, True, False),
    "tf32": (True, True, False),
    "any_order": (False, False, False),
    "cudnn_chooses": (False, False, True),
    "all": (True, False, True),
}
"""TF32, deterministic and cuDNN's benchmark mode, one by one and together."""

Found = dict[str, Any]


def is_small(setting: dict[str, Any]) -> bool:
    """Whether the check is for the CPU, and only to see that it works."""
    return bool(setting["device"] == "cpu")


def machine(setting: dict[str, Any]) -> Found:
    """The card and the versions of what it runs."""
    found: Found = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    if not is_small(setting):
        card = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": card.name,
            "memory_mib": card.total_memory >> 20,
            "compute_capability": f"{card.major}.{card.minor}",
            "cudnn": cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


@contextmanager
def kernels(tf32: bool, deterministic: bool, benchmark: bool) -> Iterator[None]:
    """PyTorch's choice of kernels inside the block."""
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.allow_tf32 = cuda.matmul.allow_tf32 = tf32
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def torchvision_model(name: str) -> nn.Module:
    """An untrained classifier, the same each time."""
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    return model


def capture(setting: dict[str, Any]) -> Found:
    """Whether networks are captured on the device as on the CPU: the same ONNX bytes, and logits within rounding."""
    from converter.graph.capture import graph_from_model

    figures, wrong = {}, []
    spec = InputSpec((3, 32, 32) if is_small(setting) else (3, 224, 224))
    for name in FAMILIES[:1] if is_small(setting) else FAMILIES:
        model = torchvision_model(name)
        expected = graph_from_model(copy.deepcopy(model), spec, "cpu")
        started = time.perf_counter()
        graph = graph_from_model(model, spec, setting["device"])
        seconds = time.perf_counter() - started
        same = graph.onnx.SerializeToString() == expected.onnx.SerializeToString()
        x = torch.randn(4, *spec.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), kernels(*SETTINGS["exact"]):
            difference = relative(graph.module(x.to(setting["device"])), expected.module(x))
        figures[name] = {"seconds": seconds, "same_onnx": same, "relative_difference": difference}
        if not same:
            wrong.append(f"{name}: another ONNX model than on the CPU")
        if not difference <= LOGITS:
            wrong.append(f"{name}: logits differ by {difference:.1e}")
    return {"figures": figures, "wrong": wrong}


def moments(setting: dict[str, Any]) -> Found:
    """``batch_moments`` and its gradient in both memory formats beside float64 on the CPU."""
    figures, wrong = {}, []
    x = torch.randn(16, 32, 14, 14, generator=torch.Generator().manual_seed(0)) * 3 + 2
    exact = x.double().requires_grad_()
    variance, mean = torch.var_mean(exact, (0, 2, 3), correction=0)
    (mean.square().sum() + variance.sum()).backward()
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        ours = x.to(setting["device"]).clone(memory_format=layout).requires_grad_()
        our_mean, our_variance = batch_moments(ours)
        (our_mean.square().sum() + our_variance.sum()).backward()
        assert ours.grad is not None
        assert exact.grad is not None
        figures[name] = {
            "mean": relative(our_mean, mean),
            "variance": relative(our_variance, variance),
            "gradient": relative(ours.grad, exact.grad),
        }
        wrong += [
            f"{name}: {part} differs by {found:.1e}"
            for part, found in figures[name].items()
            if not found <= MOMENTS
        ]
    return {"figures": figures, "wrong": wrong}


def histograms(setting: dict[str, Any]) -> Found:
    """Whether a histogram has the same counts, to the last value, as on the CPU."""
    ours, theirs = HistogramCollector("x"), HistogramCollector("x")
    values = torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 30.0):  # each with a range of its own, so that the histogram grows
        x = torch.randn(8, 64, 32, 32, generator=values) * scale
        ours.collect(x.to(setting["device"]))
        theirs.collect(x)
    one, other = ours.histogram(), theirs.histogram()
    apart = 0
    if one.bin_width == other.bin_width and len(one.counts) == len(other.counts):
        apart = int((one.counts.cpu() != other.counts).sum())
    same = apart == 0 and one.bin_width == other.bin_width and one.amax == other.amax
    figures = {"values": other.total, "bins": len(other.counts), "bins_that_differ": apart}
    return {"figures": figures, "wrong": [] if same else ["another histogram than on the CPU"]}


def digits() -> "Teacher":
    """The classifier of the example."""
    from converter.load.model import load_model
    from converter.load.options import ModelOptions

    return load_model(
        ModelOptions(
            str(DIGITS / "digits.pth"),
            arch=f"{DIGITS / 'model.py'}:digits_resnet",
            input_shape=(1, 8, 8),
            mean=(0.305,),
            std=(0.376,),
        )
    )


def ranges(setting: dict[str, Any]) -> Found:
    """Ranges of one ``generator.pt`` on the device beside those on the CPU, by each calibrator."""
    teacher, cpu = digits(), torch.device("cpu")
    weights = fingerprint(teacher.module.state_dict())
    options = ZSCGANOptions(steps=10 if is_small(setting) else 60)
    state = train_ensemble(
        teacher.module, teacher.spec, 10, options, state=new_ensemble(teacher.spec, 10, options, cpu)
    )
    with tempfile.TemporaryDirectory() as folder, kernels(*SETTINGS["exact"]):
        path = save_generator(
            TrainedGenerator(state.ensemble, weights, (), 0.0), Path(folder) / "generator.pt"
        )
        theirs, ours = (ranges_on(torch.device(name), path, weights) for name in ("cpu", setting["device"]))
    figures, wrong = {}, []
    for algorithm in ALGORITHMS:
        apart = [abs(ours[algorithm][name] / amax - 1) for name, amax in theirs[algorithm].items()]
        figures[algorithm] = {"median": statistics.median(apart), "largest": max(apart)}
        # Rounding may move a value to the next bin, and with it one range; not half of them.
        if not figures[algorithm]["largest" if algorithm == "max" else "median"] <= RANGES:
            wrong.append(f"{algorithm}: ranges differ by up to {max(apart):.1e}")
    return {"figures": figures, "wrong": wrong}


def ranges_on(device: torch.device, generator: Path, weights: str) -> dict[str, dict[str, float]]:
    """The range of each activation of the digits' network, by each calibrator."""
    from converter.graph.capture import graph_from_model, observe

    teacher = digits()
    graph = graph_from_model(teacher.module, teacher.spec, device)
    trained = load_generator(generator, fingerprint=weights, spec=teacher.spec, device=device)
    batches = SyntheticBatches(trained.generator, 256, 64, seed=0)
    observed = observe_over(lambda x: observe(graph.module, x.to(device), graph.activations)[1], batches, 256)
    return {
        algorithm: ranges_from_observed(observed, CalibrationOptions(algorithm)).amax
        for algorithm in ALGORITHMS
    }


def step_time(setting: dict[str, Any]) -> Found:
    """Milliseconds of a training step, as a conversion takes it and with each choice of kernels."""
    small = is_small(setting)
    name, side, steps = ("resnet18", 32, 2) if small else ("resnet50", 224, 20)
    teacher = torchvision_model(name).to(setting["device"], memory_format=torch.channels_last)  # type: ignore[call-overload]
    spec = InputSpec((3, side, side))
    run = {"teacher": teacher, "spec": spec, "steps": steps}
    found = {"as_converted": ms_a_step(**run, choice=None)}
    for choice, flags in list(SETTINGS.items())[: 1 if small else None]:
        found[choice] = ms_a_step(**run, choice=partial(kernels, *flags))
    figures: Found = {
        "network": name,
        "side": side,
        "batch": as_converted(spec, 60).batch_for(side, side),
        "ms_a_step": found,
    }
    if not small:
        figures["host_waits_a_step"] = host_waits(teacher, spec, 4)
        figures["peak_mib"] = torch.cuda.max_memory_allocated() >> 20
    return {"figures": figures, "wrong": []}


def as_converted(spec: InputSpec, steps: int) -> ZSCGANOptions:
    """How a conversion trains one generator for 1,000 classes in so many steps."""
    return ZSCGANOptions(steps=steps, generators=1).for_labels(1000, *spec.shape[1:])


def ms_a_step(
    teacher: nn.Module, spec: InputSpec, steps: int, choice: Callable[[], Any] | None, warm_up: int = 3
) -> float:
    """The median over ``steps``; ``choice`` makes the block that is trained in, None leaves it to the project."""
    times: list[float] = []
    options = as_converted(spec, steps + warm_up)
    replaced = (
        nullcontext() if choice is None else patch.object(training, "fast_kernels", choice, create=True)
    )
    with replaced, nullcontext() if choice is None else choice():
        training.train_generator(
            teacher, spec, 1000, options, on_step=lambda _: times.append(time.perf_counter())
        )
    return 1e3 * float(statistics.median(np.diff(times)[warm_up - 1 :]))


def host_waits(teacher: nn.Module, spec: InputSpec, steps: int) -> float:
    """How often the host waits for the GPU in a step, by PyTorch's own count."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            training.train_generator(teacher, spec, 1000, as_converted(spec, steps))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in said) / steps


def buffers(_setting: dict[str, Any]) -> Found:
    """Copies, events and CUDA graphs of each provider of memory; none of it needs a plan."""
    figures: Found = {}
    wrong: list[str] = []
    for name in ("torch", "pycuda"):
        figures[name], failed = provider(name)
        wrong += [f"{name}: {what}" for what in failed]
    return {"figures": figures, "wrong": wrong}


def provider(name: str) -> tuple[Any, list[str]]:
    """``copied`` by a provider of memory, or why there is none; only PyTorch has to be there."""
    try:
        with open_device(name) as device, device.current():
            return copied(device)
    except EngineUnavailableError as error:
        return str(error), [str(error)] * (name == "torch")


def copied(device: Device) -> tuple[Found, list[str]]:
    """A round trip over the GPU, timed by events, and the same as a CUDA graph; with what went wrong."""
    there, back = (device.pinned((1 << 20,), np.float32) for _ in range(2))
    there[:], back[:] = np.arange(len(there)), 0
    buffer, stream = device.allocate(there.nbytes), device.stream()
    started, ended = device.event(), device.event()

    def round_trip() -> None:
        device.copy_to_device(buffer, there, stream)
        device.copy_to_host(back, buffer, stream)

    started.record(stream)
    round_trip()
    ended.record(stream)
    ended.synchronize()
    wrong = [] if np.array_equal(there, back) else ["a copy came back changed"]
    milliseconds = ended.elapsed_ms(started)
    back[:] = 0
    graph = device.capture(stream, round_trip)
    if back.any():
        wrong.append("the captured work ran")
    graph.launch(stream)
    stream.synchronize()
    if not np.array_equal(there, back):
        wrong.append("the graph's copy came back changed")
    graph.close()
    buffer.free()
    figures = {"gpu": device.gpu, "round_trip_ms": milliseconds, "mib": there.nbytes / 2**20}
    return figures, wrong
