"""The pictures of these pages, from a conversion of the digits example (``make demo``).

    python docs/pictures/draw.py examples/digits/out

``ranges.png`` compares the range of each activation as the samples give it with what the 500 held-out digits give;
``calibrators.png`` shows where each calibrator cuts one activation off.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calibrators.data.images import images_from_path
from calibrators.fingerprint import fingerprint
from calibrators.options import ALGORITHMS, CalibrationOptions
from calibrators.ranges.histogram import Histogram, HistogramCollector
from calibrators.ranges.ranges import Ranges, load_ranges
from calibrators.ranges.search import amax_from_histogram
from calibrators.zscgan.sampling import SyntheticBatches, load_generator
from converter.load.model import load_model
from converter.load.options import ModelOptions

HERE = Path(__file__).parent
DIGITS = HERE.parents[1] / "examples" / "digits"
MODEL = ModelOptions(
    str(DIGITS / "digits.pth"),
    arch=f"{DIGITS / 'model.py'}:digits_resnet",
    input_shape=(1, 8, 8),
    mean=(0.305,),
    std=(0.376,),
)
SAMPLES = 512
TENSOR = "relu_4"
"""The activation of ``calibrators.png``: all four calibrators differ on it."""
SYNTHETIC, REAL = "#76b900", "#555555"


def activations(path: Path, names: list[str], x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The named tensors of the FP32 network at ``path`` for the inputs ``x``."""
    model = onnx.load(path)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in known | {"input"}
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inside = [name for name in names if name != "input"]
    return {"input": x, **dict(zip(inside, session.run(inside, {"input": x}), strict=True))}


def synthetic_and_real(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Samples of the conversion's generator, and the held-out digits, both normalised."""
    teacher = load_model(MODEL)
    trained = load_generator(
        folder / "generator.pt",
        fingerprint=fingerprint(teacher.module.state_dict()),
        spec=teacher.spec,
        device=torch.device("cpu"),
    )
    batches = (
        SyntheticBatches(trained.generator, SAMPLES, 64, seed=0),
        images_from_path(DIGITS / "test.npz", teacher.spec),
    )
    synthetic, real = (torch.cat([x for x, _ in source]).contiguous().numpy() for source in batches)
    return synthetic, real


def histogram(values: NDArray[np.float32]) -> Histogram:
    """The histogram of ``|x|`` that all calibrators read."""
    collector = HistogramCollector(TENSOR)
    collector.collect(torch.from_numpy(values))
    return collector.histogram()


def draw_ranges(found: Ranges, real: dict[str, NDArray[np.float32]], path: Path) -> None:
    """Both ranges of each activation side by side, by the same calibrator."""
    calibrator, ranges = CalibrationOptions(algorithm=found.algorithm), found.amax
    names = list(ranges)
    theirs = [amax_from_histogram(histogram(real[name]), calibrator) for name in names]
    at = np.arange(len(names))
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(at - 0.2, [ranges[name] for name in names], 0.4, color=SYNTHETIC, label="512 samples")
    axes.bar(at + 0.2, theirs, 0.4, color=REAL, label="500 real digits")
    axes.set_xticks(at, names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("range (amax)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.savefig(path, dpi=90)


def draw_calibrators(values: NDArray[np.float32], path: Path) -> None:
    """The histogram of one activation with the range that each calibrator chooses."""
    found = histogram(values)
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(np.abs(values).ravel(), bins=128, color=SYNTHETIC, alpha=0.6, log=True)
    for algorithm, style in zip(ALGORITHMS, ("-", ":", "--", "-."), strict=True):
        amax = amax_from_histogram(found, CalibrationOptions(algorithm=algorithm))
        axes.axvline(amax, color=REAL, linestyle=style, label=f"{algorithm}: {amax:.3f}")
    axes.set_xlabel(f"|x| of {TENSOR}")
    axes.set_ylabel("values")
    axes.legend(frameon=False, loc="upper center", ncols=2)
    figure.savefig(path, dpi=90)


def main(folder: Path, to: Path = HERE) -> None:
    ranges = load_ranges(folder / "calibration.json")
    synthetic, real = (
        activations(folder / "model.fp32.onnx", list(ranges.amax), x) for x in synthetic_and_real(folder)
    )
    draw_ranges(ranges, real, to / "ranges.png")
    draw_calibrators(synthetic[TENSOR], to / "calibrators.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
