"""Size of TensorRT for RTX plans, INT8 against FP32, built ahead of time without a GPU.

python benchmarks/rtx_plan_size.py --arch resnet18 --compute-capability 8.6,8.9 --json size.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from noise_networks import noise_network

from engines.options import BuildOptions, capabilities_from_text
from engines.tensorrt.rtx import engine_from_onnx


def measured(arch: str, options: BuildOptions) -> list[dict[str, Any]]:
    """Bytes and build time of both plans of one architecture."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = noise_network(arch, Path(folder))
        for precision, path in (("fp32", files.fp32), ("int8", files.int8)):
            start = time.perf_counter()
            plan = engine_from_onnx(path, Path(folder) / f"{precision}.plan", options)
            seconds = time.perf_counter() - start
            rows.append(
                {"arch": arch, "precision": precision, "bytes": plan.stat().st_size, "build_s": seconds}
            )
    for row in rows:
        row["times_smaller"] = rows[0]["bytes"] / row["bytes"]
    return rows


def main() -> None:
    """Builds, prints a table, writes ``--json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet18", help="torchvision names with commas between")
    parser.add_argument("--compute-capability", default=",".join(BuildOptions.compute_capabilities))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = BuildOptions(capabilities_from_text(given.compute_capability))
    rows = [row for arch in given.arch.split(",") for row in measured(arch, options)]
    print(f"{'arch':<16} precision {'plan MB':>8} {'build s':>8} smaller")
    for row in rows:
        print(
            f"{row['arch']:<16} {row['precision']:<9} {row['bytes'] / 1e6:>8.1f} {row['build_s']:>8.1f} "
            f"{row['times_smaller']:.2f}x"
        )
    if given.json is not None:
        report = {"compute_capabilities": options.compute_capabilities, "plans": rows}
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
