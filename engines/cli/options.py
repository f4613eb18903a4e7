"""Options of building that ``zscgan-build`` and ``zscgan-convert`` share, as decorators, and what they give."""

from collections.abc import Mapping
from typing import Any

import click
import cloup

from engines.cli.params import FilePath, joined
from engines.options import (
    CPU_INT8,
    HARDWARE,
    TENSORRT_FLAGS,
    BuildOptions,
    batch_from_shapes,
    capabilities_from_text,
)

_SHAPES = {
    "min": ("Smallest batch or shape, such as 1 or input:1x3x224x224.", BuildOptions.min_batch),
    "opt": ("Batch or shape to optimize for.", BuildOptions.opt_batch),
    "max": ("Largest batch or shape.", BuildOptions.max_batch),
}

cpu_int8_option = cloup.option(
    "--cpu-int8",
    type=click.Choice(CPU_INT8),
    default=CPU_INT8[0],
    show_default=True,
    help="Layers of ONNX Runtime's engine in INT8: those that are faster so on this machine, as measured, or all.",
)

profile_options = (
    cloup.option(
        "--compute-capability",
        "capabilities",
        metavar="X.Y[,X.Y...]",
        default=joined(BuildOptions.compute_capabilities),
        show_default=True,
        help="GPUs to build for ahead of time (tensorrt-rtx).",
    ),
    *(
        cloup.option(f"--{kind}-shapes", default=str(batch), show_default=True, help=text)
        for kind, (text, batch) in _SHAPES.items()
    ),
)
"""What the engine is built for; members of a group of each command."""

builder_options = cloup.option_group(
    "TensorRT's builder",
    cloup.option("--fp16", is_flag=True, help="Half precision for what is not INT8."),
    cloup.option("--workspace", "workspace_mib", type=int, metavar="MIB",
                 help="Scratch memory that TensorRT may use.  [default: all of the GPU's]"),
    cloup.option("--timing-cache", type=FilePath, metavar="FILE",
                 help="TensorRT's timings, read and written: a second build is faster."),
    cloup.option("--builder-optimization-level", "--builder-level", "builder_level", type=int, metavar="0-5",
                 help="How long TensorRT searches for fast kernels.  [default: 3, TensorRT's]"),
    cloup.option("--version-compatible", is_flag=True, help="Build a plan that later TensorRT versions run too."),
    cloup.option("--hardware-compatibility-level", "--hardware-compatible", "hardware_compatible",
                 type=click.Choice(HARDWARE), default=HARDWARE[0], show_default=True,
                 help="Build a plan that runs on more kinds of GPU."),
    cloup.option("--refit", is_flag=True, help="Allow the weights in the plan to be replaced later."),
)  # fmt: skip


def build_options(given: Mapping[str, Any]) -> BuildOptions:
    """What ``profile_options`` and ``builder_options`` gave. Raises OptionError, which names the flag."""
    smallest, best, largest = (
        batch_from_shapes(given[f"{kind}_shapes"], f"--{kind}-shapes") for kind in ("min", "opt", "max")
    )
    return BuildOptions(
        compute_capabilities=capabilities_from_text(given["capabilities"]),
        min_batch=smallest,
        opt_batch=best,
        max_batch=largest,
        **{name: given[name] for name in TENSORRT_FLAGS},
    )
