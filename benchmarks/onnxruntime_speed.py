"""INT8 against FP32 on ONNX Runtime: throughput, convolutions that run as integers, difference of the logits.

    python benchmarks/onnxruntime_speed.py --arch resnet18 --batch 1,8 --threads 2 --json speed.json

The three networks take turns in one run: FP32, the Q/DQ network as ONNX Runtime itself runs it, and the lowered
one. The reference of the logits is the Q/DQ network executed node by node in float, without optimization; the
column next to it is the same difference for ONNX Runtime's own optimizer, and the one after for FP32.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from noise_networks import noise_images, noise_network

from engines.bench.compare import compare, ratios
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine, int8_kernels
from engines.options import BenchOptions


class PlainEngine(OnnxRuntimeEngine):
    """An ONNX file with ONNX Runtime's defaults, its Q/DQ fusions among them."""

    name = "onnxruntime, as it is"

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path, threads)
        self._session = _session(path, threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _session(path: Path, threads: int, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measured(arch: str, options: BenchOptions, threads: int) -> dict[str, Any]:
    """All figures of one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        files = noise_network(arch, Path(folder))
        lowered = onnxruntime.build(files.int8, Path(folder) / "engine.onnx")
        engines = [
            OnnxRuntimeEngine(files.fp32, threads),
            PlainEngine(files.int8, threads),
            OnnxRuntimeEngine(lowered, threads),
        ]
        x = noise_images(4)
        fp32, plain, ours = (engine.run(x) for engine in engines)
        literal = _session(files.int8, threads, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        reference = literal.run(None, {"input": x})[0]
        del literal
        results = compare(engines, options)
        integer, total = int8_kernels(lowered)
    deviations = {
        name: float(np.sqrt(np.mean((logits - reference) ** 2)) / reference.std())
        for name, logits in (("lowered", ours), ("as_it_is", plain), ("fp32", fp32))
    }
    names = ["FP32", "Q/DQ as it is", "lowered"] * len(options.batches)
    rows = [
        {"network": name, **result.to_json(), "ratio": ratio}
        for name, result, ratio in zip(names, results, ratios(results, 3), strict=True)
    ]
    return {
        "arch": arch,
        "threads": threads,
        "int8_convolutions": integer,
        "convolutions": total,
        "logits_rms_difference_to_literal_qdq": deviations,
        "throughput": rows,
    }


def main() -> None:
    """Measures, prints a table, writes ``--json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet18", help="torchvision names with commas between")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--duration-s", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = BenchOptions(
        batches=tuple(int(batch) for batch in given.batch.split(",")),
        duration_s=given.duration_s,
        rounds=given.rounds,
        threads=given.threads,
    )
    report = [measured(arch, options, given.threads) for arch in given.arch.split(",")]
    for entry in report:
        differences = entry["logits_rms_difference_to_literal_qdq"]
        print(
            f"{entry['arch']}: {entry['int8_convolutions']} of {entry['convolutions']} convolutions in INT8; "
            "RMS difference of the logits to the literal Q/DQ network, in standard deviations: "
            + ", ".join(f"{name} {value:.4f}" for name, value in differences.items())
        )
        print(f"  {'network':<14} {'batch':>5} {'images/s':>9} {'median ms':>10} {'p99 ms':>9} {'ratio':>6}")
        for row in entry["throughput"]:
            latency = row["latency_ms"]
            print(
                f"  {row['network']:<14} {row['batch']:>5} {row['images_per_s']:>9.1f} "
                f"{latency['median']:>10.2f} {latency['p99']:>9.2f} {row['ratio']:>5.2f}x"
            )
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
