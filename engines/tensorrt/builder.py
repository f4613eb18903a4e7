"""Plans from ONNX: the builder that TensorRT 10, TensorRT 11 and TensorRT for RTX share.

Networks are strongly typed, which means the same in all three: what is INT8 is what the Q/DQ pairs say, and half
precision is written into the ONNX (``onnx_passes.float16``). The one exception is a calibrator, which TensorRT 10
alone takes: that network is weakly typed, and the builder chooses where INT8 is faster.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import BuildError, EngineUnavailableError
from engines.files import existing_file, replaced_file
from engines.image_input import IMAGE_INPUT, image_shape
from engines.options import BuildOptions
from engines.tensorrt.api import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    ITensor,
    TensorRT,
)
from engines.tensorrt.build_log import BuildLog, build_log
from engines.tensorrt.cancellation import Cancellation, Progress, interruptible, new_monitor
from engines.tensorrt.plugins import load_plugins
from engines.tensorrt.timing_cache import attach_timing_cache, save_timing_cache

_HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class PlanBuilder:
    """One of the three libraries.

    ``name`` with the version is for messages, ``logger`` gets the build log, and ``configure`` sets what this
    library alone has.
    """

    trt: TensorRT
    name: str
    logger: logging.Logger
    configure: Callable[[IBuilderConfig, BuildOptions], None] | None = None


def plan_from_onnx(
    library: PlanBuilder,
    onnx_path: Path,
    out_path: Path,
    options: BuildOptions,
    *,
    calibrator: Any = None,
    log_path: Path | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Writes the plan of an ONNX network and gives its path; nothing is written unless all went well.

    Args:
        calibrator: an ``IInt8Calibrator`` for a network without Q/DQ pairs. Its ``raise_error()``, if it has
            one, is called after the build, since TensorRT swallows the exceptions of callbacks.
        log_path: gets every message of the builder; it stays when the build fails.
        on_progress: called with phase, done steps and number of steps, on the builder's thread.

    Raises BuildError where the network or an option is refused, EngineUnavailableError where no builder can be
    made, and KeyboardInterrupt on Ctrl-C once the builder has stopped.
    """
    existing_file(onnx_path)
    cancellation = Cancellation()
    with (
        _strongly_typed_source(onnx_path, half=options.fp16 and calibrator is None) as source,
        build_log(library.trt, library.logger, log_path) as log,
    ):
        build = _Build(library, onnx_path, source, options, log, calibrator)
        plan = interruptible(lambda: build.run(cancellation, on_progress), cancellation)
    with replaced_file(out_path) as temporary:
        temporary.write_bytes(plan)
    return out_path


@contextmanager
def _strongly_typed_source(onnx_path: Path, *, half: bool) -> Iterator[Path]:
    """The file to parse: ``onnx_path`` itself, or with ``half`` a temporary copy in half precision."""
    if not half:
        yield onnx_path
        return
    import onnx

    from engines.onnx_passes.file import load_onnx
    from engines.onnx_passes.float16 import half_from_onnx

    model = half_from_onnx(load_onnx(onnx_path))
    with tempfile.TemporaryDirectory(prefix="zscgan-") as folder:
        path = Path(folder) / onnx_path.name
        onnx.save_model(model, path)
        yield path


@dataclass(frozen=True)
class _Build:
    """One build; it runs in the builder's thread."""

    library: PlanBuilder
    onnx_path: Path
    source: Path
    options: BuildOptions
    log: BuildLog
    calibrator: Any

    def run(self, cancellation: Cancellation, on_progress: Progress | None) -> bytes:
        """The serialized plan."""
        trt, options = self.library.trt, self.options
        builder = _new_builder(self.library, self.log)
        network = self._parsed_network(builder)
        config = builder.create_builder_config()
        _set_options(self.library, config, options)
        if self.library.configure is not None:
            self.library.configure(config, options)
        image = _image_input(network, self.onnx_path)
        _add_profile(self.library, builder, config, image, options)
        if self.calibrator is not None:
            _set_calibrator(self.library, builder, config, image, self.calibrator, fp16=options.fp16)
        path = options.timing_cache
        cache = None if path is None else attach_timing_cache(config, path, self.log)
        # The monitor has to outlive the build; this variable holds it.
        config.progress_monitor = monitor = new_monitor(trt, cancellation, on_progress)
        self.log.errors.clear()
        plan: Any = builder.build_serialized_network(network, config)
        del monitor
        if self.calibrator is not None and hasattr(self.calibrator, "raise_error"):
            self.calibrator.raise_error()
        if plan is None:
            reason = self.log.reason or "its log, -v, has the reason"
            raise BuildError(f"{self.library.name} could not build {self.onnx_path}: {reason}")
        if path is not None and cache is not None and not cancellation.requested:
            save_timing_cache(cache, path)
        return memoryview(plan).tobytes()

    def _parsed_network(self, builder: Builder) -> INetworkDefinition:
        trt = self.library.trt
        # The number of the flag differs between the versions, and 11 ignores it. A calibrator needs weak types.
        strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strong if self.calibrator is None else 0)
        load_plugins(trt, self.log)
        parser = trt.OnnxParser(network, self.log)
        # From the file, so that weights stored beside it are found.
        if parser.parse_from_file(str(self.source)):
            return network
        problems = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
            problems.append(f"{where}{error.desc()}")
        reason = "; ".join(problems) or self.log.reason or "the file is no ONNX network"
        raise BuildError(f"{self.library.name} can't read {self.onnx_path}: {reason}")


def _new_builder(library: PlanBuilder, log: BuildLog) -> Builder:
    try:
        return library.trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # the binding's words for "the library gave none"
        reason = log.reason or error
        raise EngineUnavailableError(
            f"{library.name} can't make a builder on this machine: {reason}; see that nvidia-smi lists a GPU and "
            "a driver that this version supports"
        ) from error


def _set_options(library: PlanBuilder, config: IBuilderConfig, options: BuildOptions) -> None:
    """What all libraries call by the same names. The plan keeps the names of its layers for the inspector."""
    trt = library.trt
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        limit, pool = options.workspace_mib << 20, trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, limit)
        if config.get_memory_pool_limit(pool) != limit:
            raise BuildError(
                f"{library.name} refused --workspace {options.workspace_mib} (MiB); name at most the GPU's memory"
            )
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
    if options.version_compatible:
        _set_flag(library, config, "VERSION_COMPATIBLE", "--version-compatible")
    if options.refit:
        _set_flag(library, config, "REFIT", "--refit")
    if options.hardware_compatible in _HARDWARE_LEVELS:
        flag = f"--hardware-compatible {options.hardware_compatible}"
        level: Any = _member(
            library, trt.HardwareCompatibilityLevel, _HARDWARE_LEVELS[options.hardware_compatible], flag
        )
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level != level:
            raise BuildError(f"{library.name} refused {flag}; build without it")


def _member(library: PlanBuilder, enum: Any, name: str, flag: str) -> Any:
    """``enum.name``; BuildError that names the option ``flag`` where this version has none."""
    member = getattr(enum, name, None)
    if member is None:
        raise BuildError(
            f"{library.name} does not support {flag} (it has no {enum.__name__}.{name}); remove it"
        )
    return member


def _set_flag(library: PlanBuilder, config: IBuilderConfig, name: str, flag: str) -> None:
    config.set_flag(_member(library, library.trt.BuilderFlag, name, flag))


def _shape(tensor: ITensor) -> tuple[int, ...]:
    dims: Any = tensor.shape  # the stubs do not say that it can be iterated
    return tuple(dims)


def _image_input(network: INetworkDefinition, onnx_path: Path) -> ITensor:
    """The one input, whose batch alone may be dynamic."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if image_shape([_shape(tensor) for tensor in inputs]) is None:
        given = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in inputs) or "none"
        raise BuildError(
            f"expected {IMAGE_INPUT}, but {onnx_path} has {given}; export a network of one image with a fixed "
            "height and width"
        )
    return inputs[0]


def _add_profile(
    library: PlanBuilder, builder: Builder, config: IBuilderConfig, image: ITensor, options: BuildOptions
) -> None:
    """One optimization profile for a dynamic batch; a fixed one has to lie between the bounds."""
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    batch = _shape(image)[0]
    if batch != -1:
        if not options.min_batch <= batch <= options.max_batch:
            raise BuildError(
                f"input {image.name} has a fixed batch of {batch}, outside of --min-shapes {options.min_batch} to "
                f"--max-shapes {options.max_batch}; name bounds that hold it, or export a dynamic batch"
            )
        library.logger.info("Input %s has a fixed batch: the plan runs %d images.", image.name, batch)
        return
    if not _add_shapes(library, builder, image, batches, config.add_optimization_profile):
        raise BuildError(f"{library.name} refused the batches {', '.join(map(str, batches))}")


def _add_shapes(
    library: PlanBuilder,
    builder: Builder,
    image: ITensor,
    batches: tuple[int, int, int],
    add: Callable[[Any], int | bool],
) -> bool:
    """Whether ``add`` took a profile of these batches."""
    dims = [library.trt.Dims([batch, *_shape(image)[1:]]) for batch in batches]
    profile = builder.create_optimization_profile()
    try:
        profile.set_shape(image.name, *dims)
    except RuntimeError:
        return False
    added = add(profile)
    # An index, -1 for a refusal; the calibration profile answers with a bool.
    return added if isinstance(added, bool) else added >= 0


def _set_calibrator(
    library: PlanBuilder,
    builder: Builder,
    config: IBuilderConfig,
    image: ITensor,
    calibrator: Any,
    *,
    fp16: bool,
) -> None:
    """INT8 as TensorRT 10 chooses it from the ranges that ``calibrator`` gives."""
    _set_flag(library, config, "INT8", "a calibrator")
    if fp16:
        _set_flag(library, config, "FP16", "--fp16")
    with _deprecated_on_purpose():
        config.int8_calibrator = calibrator
    batch, wanted = calibrator.get_batch_size(), _shape(image)[0]
    if wanted not in {-1, batch}:
        raise BuildError(
            f"input {image.name} has a fixed batch of {wanted}, but the calibrator gives batches of {batch}; "
            f"calibrate with batches of {wanted}, or export a dynamic batch"
        )
    # Without a profile of its own, calibration of a dynamic batch would run the profile's fastest batch.
    if wanted == -1:
        with _deprecated_on_purpose():
            added = _add_shapes(
                library, builder, image, (batch, batch, batch), config.set_calibration_profile
            )
        if not added:
            raise BuildError(f"{library.name} refused to calibrate with batches of {batch}")


@contextmanager
def _deprecated_on_purpose() -> Iterator[None]:
    """A block without TensorRT's deprecation warnings, which end in a SystemError where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
