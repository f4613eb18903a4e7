"""A double of the builder's side of TensorRT: ``tensorrt_double("10.16.1")`` or ``("11.0.0")``.

It behaves as the documented API: what 11 removed is missing there, attributes that TensorRT lacks can't be set,
a refusal is logged as an error and answered with None, and exceptions in callbacks are swallowed. A plan is
``b"TRTDOUBLE"``, the length of the header (8 bytes, big-endian), the header (JSON: version, flags and the
other settings) and the ONNX file that was built.
"""

import enum
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.tensorrt_double.calibration import (
    CalibrationAlgoType,
    IInt8Calibrator,
    IInt8EntropyCalibrator2,
    IInt8MinMaxCalibrator,
    swallowed,
)

MAGIC = b"TRTDOUBLE"
TIMING_MAGIC = b"TIMINGS of "

COMMON_FLAGS = ("DEBUG", "REFIT", "TF32", "VERSION_COMPATIBLE", "STRIP_PLAN")
PRECISION_FLAGS = ("FP16", "INT8", "BF16", "FP8")
PHASES = {"Building engine": 3, "Computing profile costs": 4}


@dataclass
class Machine:
    """What the double is told of its machine, and what it recorded."""

    gpu: str | None = "A100"
    workspace_limit: int = 40 << 30
    fails: bool = False
    on_step: Callable[[str, int], None] = lambda phase, step: None
    plans: list[dict[str, Any]] = field(default_factory=list)


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class _Interface:
    """A class to derive from; as in pybind11, the base's ``__init__`` must have been called."""

    def __init__(self) -> None:
        self.is_ready = True


def _checked(interface: Any) -> Any:
    if not getattr(interface, "is_ready", False):
        raise TypeError(f"{type(interface).__name__}.__init__() must be called when overriding __init__")
    return interface


class ILogger(_Interface):
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor(_Interface):
    """``phase_start``, ``step_complete`` and ``phase_finish`` are the user's."""


class Dims(tuple[int, ...]):
    def __new__(cls, shape: list[int]) -> "Dims":
        return super().__new__(cls, shape)


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


@dataclass
class ITensor:
    name: str
    shape: Dims


@dataclass
class INetworkDefinition:
    strongly_typed: bool
    model: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    inputs: list[ITensor] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]

    def has_pairs(self) -> bool:
        return any(node.op_type == "QuantizeLinear" for node in self.model.graph.node)

    def is_dynamic(self) -> bool:
        return any(-1 in tensor.shape for tensor in self.inputs)


@dataclass
class ParserError:
    text: str
    name: str = ""
    operator: str = ""

    def desc(self) -> str:
        return self.text

    def node_name(self) -> str:
        return self.name

    def node_operator(self) -> str:
        return self.operator


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._log = network, _checked(logger)
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        try:
            loaded = onnx.load(model)
        except (OSError, DecodeError):
            self._errors.append(ParserError(f"Failed to parse {model}"))
            return False
        self._errors += [
            ParserError("No importer registered for op", node.name, node.op_type)
            for node in loaded.graph.node
            if node.domain not in {"", "ai.onnx"}
        ]
        self._network.model = loaded
        constants = {tensor.name for tensor in loaded.graph.initializer}
        self._network.inputs = [
            ITensor(value.name, _shape(value)) for value in loaded.graph.input if value.name not in constants
        ]
        return not self._errors


def _shape(value: onnx.ValueInfoProto) -> Dims:
    return Dims([d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim])


@dataclass
class IOptimizationProfile:
    shapes: dict[str, tuple[Dims, Dims, Dims]] = field(default_factory=dict)

    def set_shape(self, name: str, low: Dims, opt: Dims, high: Dims) -> None:
        assert all(isinstance(dims, Dims) for dims in (low, opt, high))
        if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self.shapes[name] = (low, opt, high)

    def is_complete(self, network: INetworkDefinition) -> bool:
        return all(tensor.name in self.shapes for tensor in network.inputs if -1 in tensor.shape)


@dataclass
class ITimingCache:
    owner: str
    entries: int = 0

    def serialize(self) -> IHostMemory:
        return IHostMemory(TIMING_MAGIC + f"{self.owner}: {self.entries}".encode())


def _warn_of_deprecation() -> None:
    """As the bindings since 10.1."""
    warnings.warn(
        "Use Deprecated in TensorRT 10.1. Superseded by explicit quantization. instead.",
        DeprecationWarning,
        stacklevel=3,
    )


class IBuilderConfig:
    """Settings by attribute; what TensorRT lacks can't be set."""

    _attributes = frozenset(
        {
            "profiling_verbosity", "builder_optimization_level", "hardware_compatibility_level",
            "progress_monitor",
        }
    )  # fmt: skip
    _calibrators = True

    def __init__(self, trt: SimpleNamespace, log: ILogger) -> None:
        self.__dict__.update(
            trt=trt, log=log, flags_set=set(), workspace=trt.machine.workspace_limit, profiles=[], cache=None,
            calibration_profile=None, int8_calibrator=None, progress_monitor=None, builder_optimization_level=3,
            profiling_verbosity=trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
            hardware_compatibility_level=trt.HardwareCompatibilityLevel.NONE,
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        allowed = self._attributes | ({"int8_calibrator"} if self.trt.has_precision_flags else set())
        if name not in allowed:
            raise AttributeError(f"'IBuilderConfig' object has no attribute '{name}'")
        if name in {"progress_monitor", "int8_calibrator"}:
            _checked(value)
        if name == "int8_calibrator":
            _warn_of_deprecation()
        self.__dict__[name] = value

    def set_flag(self, flag: enum.IntEnum) -> None:
        assert isinstance(flag, self.trt.BuilderFlag)
        self.flags_set.add(flag.name)

    def set_memory_pool_limit(self, pool: enum.IntEnum, pool_size: int) -> None:
        if pool_size > self.trt.machine.workspace_limit:
            self.log.log(Severity.ERROR, "the pool is larger than the maximum possible value")
        else:
            self.__dict__["workspace"] = pool_size

    def get_memory_pool_limit(self, pool: enum.IntEnum) -> int:
        return int(self.workspace)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        content = bytes(serialized_timing_cache)
        match = re.fullmatch(TIMING_MAGIC + rb"(.*): (\d+)", content)
        if match is not None:
            return ITimingCache(match[1].decode(errors="replace"), int(match[2]))
        if content:
            self.log.log(Severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed")
        return ITimingCache(self.trt.place)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or cache.owner == self.trt.place
        self.__dict__["cache"] = cache if fits else None
        return fits

    def __getattr__(self, name: str) -> Any:
        if name == "set_calibration_profile" and self.trt.has_precision_flags:
            return self._set_calibration_profile
        raise AttributeError(f"'IBuilderConfig' object has no attribute '{name}'")

    def _set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        _warn_of_deprecation()
        self.__dict__["calibration_profile"] = profile
        return True

    def header(self, network: INetworkDefinition) -> dict[str, Any]:
        calibration = self.calibration_profile
        return {
            "version": self.trt.__version__,
            "strongly_typed": network.strongly_typed,
            "flags": sorted(self.flags_set),
            "profiling_verbosity": self.profiling_verbosity.name,
            "builder_optimization_level": self.builder_optimization_level,
            "hardware_compatibility_level": self.hardware_compatibility_level.name,
            "workspace": self.workspace,
            "profiles": [profile.shapes for profile in self.profiles],
            "calibration_profile": None if calibration is None else calibration.shapes,
            "calibrated": self.int8_calibrator is not None,
        }


class Builder:
    """Made by ``tensorrt_double``, which gives each version its own."""

    trt: SimpleNamespace

    def __init__(self, logger: ILogger) -> None:
        self._log = _checked(logger)
        if self.trt.machine.gpu is None:
            self._log.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        strong = bool(flags & 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return INetworkDefinition(strong or not self.trt.has_precision_flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.trt, self._log)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        problem = self._problem(network, config) or self._run(network, config)
        if problem:
            self._log.log(Severity.ERROR, f"IBuilder::buildSerializedNetwork: Error Code 4: {problem}")
            return None
        if config.cache is not None:
            config.cache.entries += 1
        header = config.header(network)
        self.trt.machine.plans.append(header)
        text = json.dumps(header).encode()
        self._log.log(Severity.INFO, "Engine generation completed in 0.1 seconds.")
        return IHostMemory(MAGIC + len(text).to_bytes(8, "big") + text + network.model.SerializeToString())

    def _problem(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        precisions = config.flags_set & set(PRECISION_FLAGS)
        calibrator, dynamic = config.int8_calibrator, network.is_dynamic()
        profiled = any(profile.is_complete(network) for profile in config.profiles)
        refusals = {
            "Could not find any implementation for node conv4.": self.trt.machine.fails,
            "precision flags and calibrators are not supported by strongly typed networks": (
                network.strongly_typed and (precisions or calibrator is not None)
            ),
            "Network has dynamic or shape inputs, but no optimization profile has been defined.": (
                dynamic and not profiled
            ),
            "a calibrator is set, but the INT8 flag is not": (
                calibrator is not None and "INT8" not in precisions
            ),
            "Calibrator is not being used. Users must provide dynamic range for all tensors.": (
                "INT8" in precisions and calibrator is None and not network.has_pairs()
            ),
            "Calibration of a network with dynamic inputs needs a calibration profile.": (
                calibrator is not None and dynamic and config.calibration_profile is None
            ),
        }
        return next((reason for reason, holds in refusals.items() if holds), "")

    def _run(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        """Calibration and the phases of the build; the reason where that ends early."""
        if config.int8_calibrator is not None:
            shape = network.inputs[0].shape
            if config.calibration_profile is not None:
                shape = config.calibration_profile.shapes[network.inputs[0].name][1]
            if not self.trt.calibrate(config.int8_calibrator, network, shape):
                return "Calibration failure occurred with no scaling factors detected."
        monitor, parent = config.progress_monitor, None
        for phase, steps in PHASES.items():
            if monitor is not None:
                monitor.phase_start(phase, parent, steps)
            for step in range(steps):
                self.trt.machine.on_step(phase, step)
                if monitor is not None and not monitor.step_complete(phase, step):
                    return "the progress monitor cancelled the build"
            if monitor is not None:
                monitor.phase_finish(phase)
            parent = phase
        return ""


def calibrate(calibrator: Any, network: INetworkDefinition, shape: Dims) -> bool:
    """The callbacks of a calibration in their order; whether there was a cache or at least one batch.

    Reads nothing behind the pointers; ``calibration.calibrate_in(memory)`` does, put in the place of
    ``.calibrate`` of the double.
    """
    if swallowed(calibrator.read_calibration_cache):
        return True
    batches = 0
    while swallowed(calibrator.get_batch, [tensor.name for tensor in network.inputs]):
        batches += 1
    if batches:
        swallowed(calibrator.write_calibration_cache, memoryview(b"TRT-101601-EntropyCalibration2\n"))
    return batches > 0


def tensorrt_double(version: str, machine: Machine | None = None) -> SimpleNamespace:
    """A module-like value with the names of TensorRT ``version``; ``.machine`` has the plans that were built."""
    old = int(version.partition(".")[0]) < 11
    flags = (*PRECISION_FLAGS, *COMMON_FLAGS) if old else COMMON_FLAGS
    created = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if old else ("STRONGLY_TYPED",)
    levels = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
    if version.startswith("10.0."):
        levels = levels[:2]
    trt = SimpleNamespace(
        __version__=version,
        machine=machine or Machine(),
        has_precision_flags=old,
        calibrate=calibrate,
        BuilderFlag=_enum("BuilderFlag", flags),
        NetworkDefinitionCreationFlag=_enum("NetworkDefinitionCreationFlag", created),
        HardwareCompatibilityLevel=_enum("HardwareCompatibilityLevel", levels),
        MemoryPoolType=_enum("MemoryPoolType", ("WORKSPACE", "TACTIC_DRAM")),
        ProfilingVerbosity=_enum("ProfilingVerbosity", ("LAYER_NAMES_ONLY", "NONE", "DETAILED")),
        Dims=Dims,
        ILogger=ILogger,
        IProgressMonitor=IProgressMonitor,
        OnnxParser=OnnxParser,
    )
    trt.place = f"TensorRT {version} on {trt.machine.gpu}"
    trt.Builder = type("Builder", (Builder,), {"trt": trt})
    if old:
        for base in (IInt8Calibrator, IInt8EntropyCalibrator2, IInt8MinMaxCalibrator, CalibrationAlgoType):
            setattr(trt, base.__name__, base)
    return trt


def _enum(name: str, members: tuple[str, ...]) -> Any:
    return enum.IntEnum(name, {member: index for index, member in enumerate(members)})


def plan_header(plan: bytes | Path) -> dict[str, Any]:
    """The settings of a plan that the double built."""
    content = plan.read_bytes() if isinstance(plan, Path) else plan
    assert content.startswith(MAGIC)
    start = len(MAGIC) + 8
    size = int.from_bytes(content[len(MAGIC) : start], "big")
    header: dict[str, Any] = json.loads(content[start : start + size])
    return header


def plan_model(plan: bytes | Path) -> onnx.ModelProto:
    """The ONNX network of a plan that the double built."""
    content = plan.read_bytes() if isinstance(plan, Path) else plan
    start = len(MAGIC) + 8
    return onnx.ModelProto.FromString(content[start + int.from_bytes(content[len(MAGIC) : start], "big") :])
