"""Where this project and ModelOpt's ONNX quantizer place Q/DQ pairs in the same FP32 file, and what TensorRT for RTX
makes of both.

    python benchmarks/placement.py --arch resnet18,mobilenet_v2,efficientnet_b0 --onnx yolo-fastestv2.onnx

A place is a tensor and the node that reads it quantized. Printed are the places that both have, and those of one alone,
counted by what makes the tensor and what reads it; then size and build time of both plans. Files of ``--onnx`` take
3 channels in [0, 1]. ModelOpt calibrates with its own random input: where the pairs go doesn't depend on it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from noise_networks import noise_network

from converter.console import Console
from converter.graph.capture import as_written
from converter.job import job_from_options
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.quantize.placement import place_quantizers
from converter.quantize.qdq import qdq_from_onnx
from converter.stages.capture import graph_of
from engines.options import BuildOptions
from engines.tensorrt.rtx import engine_from_onnx

Place = tuple[str, str]
"""A tensor, and the first output of the node that reads it quantized."""


@dataclass(frozen=True)
class Row:
    """One network. Plans are in bytes and seconds, None where the parser refuses the file."""

    network: str
    both: int
    ours_alone: dict[str, int]
    modelopt_alone: dict[str, int]
    ours_plan: tuple[int, float] | None
    modelopt_plan: tuple[int, float] | None


def places(model: onnx.ModelProto) -> set[Place]:
    """All places of activations in a model with Q/DQ pairs."""
    constants = {item.name for item in model.graph.initializer}
    quantized = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    pairs = {
        node.output[0]: quantized[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }
    return {
        (pairs[name], node.output[0])
        for node in model.graph.node
        for name in node.input
        if name in pairs and pairs[name] not in constants
    }


def kinds(found: set[Place], model: onnx.ModelProto) -> dict[str, int]:
    """Places counted by operators: what makes the tensor, and what reads it."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    count = Counter(
        f"{makers.get(tensor, 'input')} -> {makers.get(reader, 'output')}" for tensor, reader in found
    )
    return dict(count.most_common())


def by_modelopt(path: Path, output: Path) -> onnx.ModelProto:
    """What ModelOpt's command makes of a file."""
    command = [
        sys.executable, "-m", "modelopt.onnx.quantization", "--onnx_path", str(path), "--quantize_mode", "int8",
        "--calibration_eps", "cpu", "--high_precision_dtype", "fp32", "--output_path", str(output),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"ModelOpt failed:\n{done.stdout}\n{done.stderr}")
    return onnx.load(output)


def planned(path: Path) -> tuple[int, float] | None:
    """Bytes of the plan, and the seconds to build it."""
    started = time.perf_counter()
    try:
        plan = engine_from_onnx(path, path.with_suffix(".plan"), BuildOptions())
    except Exception as error:  # noqa: BLE001 - of the vendor's parser and builder; the row says None
        print(f"{path.name}: {error}", file=sys.stderr)
        return None
    return plan.stat().st_size, time.perf_counter() - started


def compared(name: str, fp32: onnx.ModelProto, ours: onnx.ModelProto, folder: Path) -> Row:
    """Both placements in one network."""
    files = {kind: folder / f"{kind}.onnx" for kind in ("fp32", "ours", "modelopt")}
    onnx.save_model(fp32, files["fp32"])
    onnx.save_model(ours, files["ours"])
    theirs = places(by_modelopt(files["fp32"], files["modelopt"]))
    mine = places(ours)
    return Row(
        name,
        len(mine & theirs),
        kinds(mine - theirs, fp32),
        kinds(theirs - mine, fp32),
        planned(files["ours"]),
        planned(files["modelopt"]),
    )


def networks(
    args: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, onnx.ModelProto, onnx.ModelProto]]:
    """Name, FP32 and Q/DQ model of each network."""
    for arch in filter(None, args.arch.split(",")):
        files = noise_network(arch, folder)
        yield arch, onnx.load(files.fp32), onnx.load(files.int8)
    for path in args.onnx:
        options = ConvertOptions(ModelOptions(str(path), preset="unit"), engine="onnxruntime")
        graph = graph_of(job_from_options(options, Console(quiet=True)))
        plan = place_quantizers(graph.onnx)
        quantized = qdq_from_onnx(graph.onnx, plan, dict.fromkeys(plan.observed, 1.0))
        yield path.stem, as_written(graph.onnx), as_written(quantized)


def main() -> None:
    """Prints a block a network, writes ``--json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="", help="torchvision names with commas between")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for network, fp32, ours in networks(args, Path(name)):
            row = compared(network, fp32, ours, Path(name))
            rows.append(row)
            print(f"{row.network}: {row.both} places in both")
            for owner, alone in (("ours", row.ours_alone), ("ModelOpt's", row.modelopt_alone)):
                print(f"  {owner} alone: {sum(alone.values())} {alone}")
            for owner, plan in (("ours", row.ours_plan), ("ModelOpt's", row.modelopt_plan)):
                if plan is not None:
                    print(f"  plan of {owner}: {plan[0] / 1e6:.2f} MB in {plan[1]:.1f} s", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
