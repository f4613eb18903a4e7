"""INT8 against FP32 on a CPU: all layers in INT8, those that are faster so, and OpenVINO's INT8, in one run.

    python benchmarks/onnxruntime_speed.py resnet18 efficientnet_lite0.onnx digits_int8 --threads 1,2 --json speed.json

A network is the name of one of torchvision's classifiers (random weights, calibrated on noise), an ONNX file with a
free batch whose batch norms are folded (calibrated on noise, too: speed depends on neither weights nor ranges), or the
output folder of a conversion, whose files are taken.

For each number of threads the engine of ``--cpu-int8 fastest`` is chosen anew. All engines then take turns, a query of
each in a round, in another order each time: FP32, all layers in INT8, the fastest, and OpenVINO on the INT8 ONNX
with its Q/DQ pairs and, where NNCF is installed, on what that quantizes of the FP32 ONNX with its defaults. ``x FP32``
is the ratio of the lower quartiles of a query's wall time, as other programs can only make it longer; ``CPU`` that of
the processor time. ``--accuracy`` adds the RMS difference of the first output to the Q/DQ network executed literally.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from noise_networks import NoiseNetwork, noise_network, quantized_on_noise
from numpy.typing import NDArray

from converter.workspace import FP32_ONNX, INT8_ONNX
from engines.measurement import noise
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime import stopwatch, timing
from engines.onnxruntime.fastest import Choice, build_fastest
from engines.onnxruntime.session import session_options
from zscgan_common.tables import columns, figures, text_from, words

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
FP32, ALL, FASTEST, OPENVINO, NNCF = (
    "FP32", "all INT8", "fastest", "OpenVINO, our Q/DQ", "OpenVINO, NNCF",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """One engine at one batch: its time a query, and FP32's over it."""

    engine: str
    batch: int
    wall_ms: float
    wall_ratio: float
    cpu_ratio: float


def main() -> None:
    """Measures, prints a table a network and number of threads, writes ``--json``."""
    given = parsed()
    entries = []
    for network in given.networks:
        for threads in given.threads:
            with tempfile.TemporaryDirectory() as folder:
                entry = measured(network, threads, Path(folder), given)
            print(table(entry), flush=True)
            entries.append(entry)
            if given.json is not None:
                given.json.write_text(json.dumps(entries, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["resnet18"])
    parser.add_argument("--batch", type=numbers, default=(1, 8))
    parser.add_argument("--threads", type=numbers, default=(2,))
    parser.add_argument("--rounds", type=int, default=60, help="queries of each engine, at most")
    parser.add_argument("--duration-s", type=float, default=30.0, help="for all engines at one batch")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(network: str, threads: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network."""
    files = files_of(network, folder)
    everything = onnxruntime.build(files.int8, folder / "all.onnx")
    with default_threads(threads):
        choice = build_fastest(files.int8, folder / "fastest.onnx")
    runs = {
        FP32: onnxruntime_run(files.fp32, threads),
        ALL: onnxruntime_run(everything, threads),
        FASTEST: onnxruntime_run(folder / "fastest.onnx", threads),
        OPENVINO: openvino_run(str(files.int8), threads),
    }
    shape = input_shape(files.fp32)
    nncf_model = quantized_by_nncf(files.fp32, shape)
    if nncf_model is not None:
        runs[NNCF] = openvino_run(nncf_model, threads)
    effort = timing.Effort(given.rounds, given.duration_s, least_runs=10)
    rows = [
        figures for batch in given.batch for figures in in_turns(runs, noise(batch, shape, 0), batch, effort)
    ]
    entry = {
        "network": Path(network).stem,
        "threads": threads,
        "choice": described(choice),
        "figures": [vars(row) for row in rows],
    }
    if given.accuracy:
        entry["rms_difference_to_literal_qdq"] = differences(runs, files.int8, noise(4, shape, 1))
    return entry


def files_of(network: str, folder: Path) -> NoiseNetwork:
    """FP32 and INT8 ONNX of what the command line names."""
    path = Path(network)
    if path.is_dir():
        return NoiseNetwork(path / FP32_ONNX, path / INT8_ONNX)
    if path.suffix == ".onnx":
        return quantized_on_noise(onnx.load(path), folder, path.stem)
    return noise_network(network, folder)


@contextmanager
def default_threads(threads: int) -> Iterator[None]:
    """Sessions of the choice use ``threads`` in place of all cores."""
    with ExitStack() as stack:
        for module in (stopwatch, timing):
            stack.enter_context(patch.object(module, "session_options", lambda _: session_options(threads)))
        yield


def described(choice: Choice) -> dict[str, Any]:
    """The choice for the JSON."""
    return {
        "layers": choice.layers,
        "in_float": list(choice.in_float),
        "engines": choice.engines,
        "seconds": choice.seconds,
    }


def onnxruntime_run(path: Path, threads: int, level: Any = None) -> Run:
    """The first output of an ONNX file in ONNX Runtime."""
    options = session_options(threads)
    if level is not None:
        options.graph_optimization_level = level
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino_run(model: Any, threads: int) -> Run:
    """The first output of a model, or an ONNX file, in OpenVINO, set for the latency of one query after another."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer([x])[0]


def quantized_by_nncf(fp32: Path, shape: tuple[int, int, int]) -> Any:
    """What NNCF's post-training quantization makes of an FP32 ONNX, on noise; None without NNCF."""
    try:
        import nncf
    except ImportError:
        return None
    import openvino as ov

    data = nncf.Dataset([noise(1, shape, seed) for seed in range(16)])
    return nncf.quantize(ov.Core().read_model(str(fp32)), data, subset_size=16)


def input_shape(path: Path) -> tuple[int, int, int]:
    """Channels, height and width."""
    dims = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (int(dim.dim_value) for dim in dims[1:])
    return channels, height, width


def in_turns(
    runs: dict[str, Run], x: NDArray[np.float32], batch: int, effort: timing.Effort
) -> list[Figures]:
    """One query of each engine a round, behind one that is not measured; lower quartiles of wall and processor time."""
    names, order = list(runs), np.random.default_rng(0)
    rounds: list[list[tuple[float, float]]] = []
    started = time.perf_counter()
    while effort.goes_on(len(rounds), started):
        taken: dict[str, tuple[float, float]] = {}
        for name in map(str, order.permutation(names)):
            runs[name](x)  # threads of the engine before may still wait busily, and the caches are its
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name](x)
            taken[name] = time.perf_counter() - wall, time.process_time() - cpu
        rounds.append([taken[name] for name in names])
    quartiles = np.quantile(np.array(rounds), 0.25, axis=0)
    first = quartiles[0]
    return [
        Figures(
            name,
            batch,
            *(float(value) for value in (1000 * wall, first[0] / wall, first[1] / max(cpu, 1e-9))),
        )
        for name, (wall, cpu) in zip(names, quartiles, strict=True)
    ]


def differences(runs: dict[str, Run], int8: Path, x: NDArray[np.float32]) -> dict[str, float]:
    """RMS difference of each engine to the Q/DQ network run node by node, in standard deviations of that."""
    literal = onnxruntime_run(int8, 0, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)(x)
    return {
        name: float(np.sqrt(np.mean((run(x) - literal) ** 2)) / literal.std()) for name, run in runs.items()
    }


def table(entry: dict[str, Any]) -> str:
    """One network's figures for a person."""
    rows: Sequence[dict[str, Any]] = entry["figures"]
    choice = entry["choice"]
    made = columns(words("engine"), *map(figures, ("batch", "ms", "x FP32", "CPU")), gap=2)
    for row in rows:
        made.add_row(
            row["engine"], str(row["batch"]), f"{row['wall_ms']:.2f}", f"{row['wall_ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
        )  # fmt: skip
    head = (
        f"{entry['network']}, {entry['threads']} threads: {len(choice['in_float'])} of {choice['layers']} layers in "
        f"float, chosen of {choice['engines']} engines in {choice['seconds']:.1f} s"
    )
    lines = [head, text_from(made, width=200)]
    for name, value in entry.get("rms_difference_to_literal_qdq", {}).items():
        lines.append(f"  difference to the literal Q/DQ network, {name}: {value:.4f} standard deviations")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
