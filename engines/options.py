"""Options of building and measuring, each default written once; free of heavy imports."""

import re
from dataclasses import dataclass
from pathlib import Path

ENGINE_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
"""What can be built, by the names that ``--engine`` takes."""
BUILDABLE = tuple(ENGINE_TITLES)
ENGINES = ("auto", *BUILDABLE)
BUFFERS = ("auto", "pycuda", "torch")
CPU_INT8 = ("fastest", "all")
"""Layers in INT8 in ONNX Runtime's engine: those that are faster so on this machine, or all that are in the network."""
HARDWARE = ("none", "ampere+", "same")
"""GPUs that a plan runs on: the one that it was built on, Ampere and later, or that compute capability."""

BUILDER_LEVELS = range(6)

# What TensorRT for RTX 1.x builds for; data-centre GPUs (9.0, 10.0) are TensorRT's.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


class OptionError(ValueError):
    """An option that can't be meant so; the message names the flag."""


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built from ONNX; the ONNX Runtime engine needs none of it.

    ``compute_capabilities`` are the GPUs that TensorRT for RTX builds for ahead of time. The batches make the
    optimization profile of a network with a dynamic batch: any size from ``min_batch`` to ``max_batch`` runs,
    ``opt_batch`` runs fastest. ``fp16`` lets what is not INT8 run in half precision.

    The rest is TensorRT's, with its own defaults for None: ``workspace_mib`` bounds the scratch memory in MiB,
    ``timing_cache`` is read and written so that a second build is fast, ``builder_level`` trades build time
    for speed (0 to 5), ``version_compatible`` plans run on later versions, ``hardware_compatible`` on more GPUs
    (``HARDWARE``), ``refit`` allows other weights later.
    """

    compute_capabilities: tuple[str, ...] = ("8.6", "8.9")
    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 32
    fp16: bool = False
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    builder_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: str = HARDWARE[0]
    refit: bool = False

    def __post_init__(self) -> None:
        if not self.compute_capabilities:
            raise OptionError("expected at least one --compute-capability, for example 8.6,8.9")
        for capability in self.compute_capabilities:
            if capability not in COMPUTE_CAPABILITIES:
                hint = ""
                if capability in {"9.0", "10.0", "10.3"}:
                    hint = "; data-centre GPUs need TensorRT itself: take model.int8.onnx to trtexec"
                raise OptionError(
                    f"--compute-capability {capability} is not supported by TensorRT for RTX, "
                    f"choose from {', '.join(COMPUTE_CAPABILITIES)}{hint}"
                )
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise OptionError(
                "expected 1 <= --min-shapes <= --opt-shapes <= --max-shapes, "
                f"got batches {self.min_batch}, {self.opt_batch}, {self.max_batch}"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise OptionError(f"expected --workspace of at least 1 MiB, got {self.workspace_mib}")
        if self.builder_level is not None and self.builder_level not in BUILDER_LEVELS:
            raise OptionError(f"expected --builder-level from 0 to 5, got {self.builder_level}")
        if self.hardware_compatible not in HARDWARE:
            raise OptionError(
                f"expected --hardware-compatible from {', '.join(HARDWARE)}, got {self.hardware_compatible!r}"
            )


@dataclass(frozen=True)
class BenchOptions:
    """How throughput is measured: trtexec's rules.

    ``warmup_ms`` of unmeasured queries, then queries for at least ``duration_s`` and ``min_iterations``.
    ``duration_s`` is for each engine and batch; where several are compared it is spent in ``rounds``
    alternating rounds, so that a machine that slows down slows all of them.

    ``threads`` is for the CPU. On a GPU, ``streams`` queries run at a time, each with copies to and from the
    device unless ``transfers`` is False, as one CUDA graph with ``cuda_graph``; ``buffers`` provides the memory.
    ``host_code`` allows a version-compatible plan to run the code that it brings.
    """

    batches: tuple[int, ...] = (1,)
    warmup_ms: float = 200.0
    duration_s: float = 3.0
    min_iterations: int = 10
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    rounds: int = 3
    threads: int | None = None
    seed: int = 0
    cuda_graph: bool = False
    transfers: bool = True
    streams: int = 1
    buffers: str = BUFFERS[0]
    host_code: bool = False

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"expected --batch of whole numbers from 1 up, got {self.batches}")
        if self.warmup_ms < 0:
            raise OptionError(f"expected --warmup-ms of at least 0, got {self.warmup_ms:g}")
        if not 0 < self.duration_s < float("inf"):
            raise OptionError(f"expected --duration-s above 0, got {self.duration_s:g}")
        if self.min_iterations < 1 or self.rounds < 1:
            raise OptionError("expected at least one iteration and one round")
        if not self.percentiles or not all(0 < value < 100 for value in self.percentiles):
            raise OptionError(f"expected --percentile between 0 and 100, got {self.percentiles}")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"expected --threads of at least 1, got {self.threads}")
        if self.streams < 1:
            raise OptionError(f"expected --streams of at least 1, got {self.streams}")
        if self.buffers not in BUFFERS:
            raise OptionError(f"expected --buffers from {', '.join(BUFFERS)}, got {self.buffers!r}")


TENSORRT_FLAGS = {
    "fp16": "--fp16",
    "workspace_mib": "--workspace",
    "timing_cache": "--timing-cache",
    "builder_level": "--builder-level",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "refit": "--refit",
}
"""What only TensorRT's builder can do -> its flag."""

_PROFILE_FLAGS = {
    "compute_capabilities": "--compute-capability",
    "min_batch": "--min-shapes",
    "opt_batch": "--opt-shapes",
    "max_batch": "--max-shapes",
}


def refuse_unused(engine: str, options: BuildOptions) -> None:
    """Raise OptionError where ``options`` ask for what this engine can't do."""
    if engine == "onnxruntime":
        for name, flag in TENSORRT_FLAGS.items():
            if getattr(options, name) != getattr(BuildOptions, name):
                raise OptionError(
                    f"{flag} is TensorRT's, but the engine is ONNX Runtime; leave it out, or type --engine tensorrt "
                    "(needs a GPU) or --engine tensorrt-rtx"
                )


def unused_flags(engine: str, options: BuildOptions) -> list[str]:
    """Flags of ``options`` that differ from the default and change nothing for this engine."""
    idle = _PROFILE_FLAGS if engine == "onnxruntime" else {}
    if engine == "tensorrt":
        idle = {"compute_capabilities": "--compute-capability"}
    return [flag for name, flag in idle.items() if getattr(options, name) != getattr(BuildOptions, name)]


def capabilities_from_text(text: str) -> tuple[str, ...]:
    """``"8.6,8.9"`` → ``("8.6", "8.9")``, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def batch_from_shapes(text: str, flag: str) -> int:
    """The batch of a shape as trtexec takes it: ``8``, ``8x3x224x224`` or ``input:8x3x224x224``."""
    match = re.fullmatch(r"(?:[^:]+:)?([1-9]\d*)(?:x[1-9]\d*)*", text.strip())
    if match is None:
        raise OptionError(f"expected {flag} like 8 or input:8x3x224x224, got {text!r}")
    return int(match.group(1))
