"""What other tools' INT8 agrees with FP32 on real images, by what they were calibrated with.

    python benchmarks/other_tools.py yolo-fastestv2.onnx --images FOLDER --preset unit --input-shape 3x352x352

The same FP32 file goes to ModelOpt's ONNX PTQ (entropy and max), ONNX Runtime's ``quantize_static`` (MinMax, per
channel) and NNCF for OpenVINO, each with its own defaults otherwise. They are calibrated with ModelOpt's own random
input (``random``, which only ModelOpt makes), uniform pixels, procedural images, the samples of ``zscgan-samples``
(``samples``) and real images, none of which judges. The last row, ``zscgan-convert``, is this project's own placement
and calibrator on the same samples. Options are those of ``tasks.py``. Prints a row a tool and source, and writes all to
``--json``.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from tasks import data_of, given, halves, options_of

from calibrators.data.batches import Batches, TensorBatches, random_pixels
from calibrators.data.export import write_inputs
from calibrators.kernels import exact_kernels
from converter.console import Console
from converter.graph.capture import FoldedGraph, as_written
from converter.job import Job, job_from_options
from converter.quantize.placement import place_quantizers
from converter.stages.calibration import measure_ranges, with_exact_input
from converter.stages.capture import graph_of
from converter.trust.answers import Answers, answers, array_of
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.prediction import BorderBatches
from converter.trust.task.base import Network, Outputs
from converter.trust.trial_engine import UNQUANTIZED, run_trial

SOURCES = ("random", "uniform", "procedural", "samples", "images")
OWN = "zscgan-convert"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "other_tools"

Tool = Callable[[Path, Path | None, Path], list[str]]
"""The arguments of Python that quantize a model with the samples of an archive, if any."""


@dataclass(frozen=True)
class Row:
    """One tool with one source; ``agreement`` in percent, with its standard error."""

    tool: str
    source: str
    agreement: float
    standard_error: float
    seconds: float


def modelopt(method: str) -> Tool:
    """ModelOpt's ONNX PTQ by ``method``; without data its own random input."""

    def command(model: Path, archive: Path | None, output: Path) -> list[str]:
        data = [] if archive is None else ["--calibration_data_path", str(archive)]
        return [
            "-m", "modelopt.onnx.quantization", "--onnx_path", str(model), "--quantize_mode", "int8",
            "--calibration_method", method, "--calibration_eps", "cpu", "--high_precision_dtype", "fp32",
            "--output_path", str(output), *data,
        ]  # fmt: skip

    return command


def example(name: str) -> Tool:
    """A script of ``examples/other_tools``."""

    def command(model: Path, archive: Path | None, output: Path) -> list[str]:
        return [str(EXAMPLES / f"{name}.py"), str(model), str(archive), str(output)]

    return command


TOOLS: dict[str, tuple[Tool, str]] = {
    "modelopt-entropy": (modelopt("entropy"), ".onnx"),
    "modelopt-max": (modelopt("max"), ".onnx"),
    "onnxruntime": (example("onnxruntime_static"), ".onnx"),
    "nncf": (example("nncf_openvino"), ".xml"),
}
"""Tool -> its command, and what its output is called. Each has a process of its own: ModelOpt changes ONNX Runtime's
quantizer while it is imported."""


def quantized(tool: str, model: Path, archive: Path | None, folder: Path) -> Network:
    """The network that a tool makes. Raises CalledProcessError where it fails."""
    command, suffix = TOOLS[tool]
    output = folder / f"{tool}{suffix}"
    done = subprocess.run(
        [sys.executable, *command(model, archive, output)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{tool} failed:\n{done.stdout}\n{done.stderr}")
    return openvino_network(output) if suffix == ".xml" else session(output)


def openvino_network(path: Path) -> Network:
    """A model of OpenVINO on the CPU."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU")

    def run(x: NDArray[np.float32]) -> Outputs:
        return tuple(np.array(value) for value in compiled(x).values())

    return run


def session(path: Path) -> Network:
    """An ONNX file in ONNX Runtime, as it is: Q/DQ pairs whose arithmetic is in float32 where no kernel suits."""
    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (item.name for item in opened.get_inputs())

    def run(x: NDArray[np.float32]) -> Outputs:
        return tuple(opened.run(None, {name: x}))

    return run


def batches_of(source: str, job: Job, real: Batches) -> Batches | None:
    """Inputs of a source to calibrate with; None where the tool makes its own."""
    count = job.options.calibration.samples
    if source == "random":
        return None
    if source == "uniform":
        unknown = torch.full((count,), -1)
        return TensorBatches(random_pixels(job.teacher.spec, count, 0), unknown, job.batch)
    names = {"samples": "both" if job.sample_kind == "both" else "zscgan"}
    if source == "samples" and job.sample_kind == "procedural":
        return data_of("procedural", job, real, 0)[0]
    return data_of(names.get(source, source), job, real, 0)[0]


def own(job: Job, graph: FoldedGraph, batches: Batches, judged: Batches, fp32: Answers) -> Row:
    """This project's own ranges and placement on ``batches``."""
    started = time.perf_counter()
    plan = place_quantizers(graph.onnx)
    ranges = {
        name: with_exact_input(found, job, graph)
        for name, found in measure_ranges(job, graph, batches).items()
    }
    judges = array_of(next(iter(BorderBatches(batches, 0)))[0])
    chosen = choose_calibrator(divergences(ranges, graph, plan, job.task, judges))
    seconds = time.perf_counter() - started
    with run_trial(graph, plan, ranges[chosen]) as network:
        found = fp32.agreement(answers(network, job.task, judged, fp32.truths))
    return Row(OWN, chosen, found.percent, found.standard_error, seconds)


def rows() -> Iterator[Row]:
    """All tools and sources."""
    args = given()
    job = job_from_options(options_of(args, 0), Console())
    graph = graph_of(job)
    real, judged = halves(job, args)
    with run_trial(graph, UNQUANTIZED, {}) as network:
        fp32 = answers(network, job.task, judged, ())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        onnx.save_model(as_written(graph.onnx), model)
        for source in SOURCES:
            batches, archive = batches_of(source, job, real), folder / f"{source}.npz"
            if batches is not None:
                write_inputs(
                    batches, job.teacher.spec, graph.onnx.graph.input[0].name, archive, lambda _: None
                )
            for tool in TOOLS:
                if batches is None and not tool.startswith("modelopt"):
                    continue
                started = time.perf_counter()
                network = quantized(tool, model, None if batches is None else archive, folder)
                seconds = time.perf_counter() - started
                found = fp32.agreement(answers(network, job.task, judged, fp32.truths))
                yield Row(tool, source, found.percent, found.standard_error, seconds)
        made = batches_of("samples", job, real)
        assert made is not None
        yield own(job, graph, made, judged, fp32)


@exact_kernels()
def main() -> None:
    """Prints the table."""
    args, found = given(), list[Row]()
    for row in rows():
        found.append(row)
        print(
            f"{Path(args.model).name} {row.tool:<16} {row.source:<11} agreement {row.agreement:.2f} % "
            f"(se {row.standard_error:.2f}), {row.seconds:.0f} s",
            flush=True,
        )
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
