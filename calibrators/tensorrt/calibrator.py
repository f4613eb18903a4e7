"""TensorRT 10's INT8 calibrators, fed with synthetic samples or with any other batches.

    with ZSCGANEntropyCalibrator(model, spec, cache="calibration.cache") as calibrator:
        config.int8_calibrator = calibrator
        plan = builder.build_serialized_network(network, config)

TensorRT prints an exception of a callback and goes on as if the data had ended: it builds the engine from
the batches so far. So the first exception is kept, nothing is written after it, and leaving the ``with``
block (or ``raise_error()`` after the build) raises it.

This is the one module that imports TensorRT, if it is there, at once: a calibrator has to be a subclass of
its classes. Without them the module imports too, and making a calibrator is what fails.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from torch import nn

from calibrators.data.batches import Batches
from calibrators.data.input_spec import InputSpec
from calibrators.errors import CacheError, CalibrationError
from calibrators.fingerprint import fingerprint as fingerprint_of
from calibrators.fingerprint import fingerprint_for_input
from calibrators.ranges.cache_file import (
    ENTROPY_CALIBRATOR,
    MINMAX_CALIBRATOR,
    CalibrationCache,
    header_version,
)
from calibrators.ranges.ranges import Ranges, Source
from calibrators.ranges.scales import amax_from_scale
from calibrators.synthetic import batches_from_model
from calibrators.tensorrt.cache_with_json import (
    REPAIR,
    CacheHeader,
    cache_from_tensorrt,
    check_free,
    save_pair,
    text_from_ranges,
    trusted_ranges,
)
from calibrators.tensorrt.device_feed import DeviceMemory, Feed, cuda_memory, equal_batches, plan_from_samples
from calibrators.tensorrt.gpu_memory import release_gpu_memory
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import SyntheticBatches

INSTALL = 'pip install "zscgan-convert[tensorrt]"'

Progress = Callable[[str, int, int], None]
"""Called with the phase (``synthesis`` or ``calibration``), the steps done and their total."""

_Self = TypeVar("_Self", bound="_Calibrator")


def why_unavailable(error: Exception) -> str:
    """What to say where TensorRT's calibrators can't be imported, for the reason ``error``."""
    module = sys.modules.get("tensorrt")
    if module is not None and hasattr(module, "Builder"):
        return (
            f"TensorRT {module.__version__} has no INT8 calibrators, TensorRT 10 was the last with them; build the "
            "engine from the INT8 ONNX with Q/DQ instead (zscgan-convert MODEL --int8), or install TensorRT "
            f'10: {INSTALL} "tensorrt<11"'
        )
    # A folder of type stubs imports as a module that has no Builder and no file.
    stubs = module is not None and getattr(module, "__file__", None) is None
    missing = stubs or getattr(error, "name", None) == "tensorrt"
    reason = "it isn't installed" if missing else f"it can't be loaded ({error})"
    return f'expected TensorRT 10 for its calibrators, but {reason}; type {INSTALL} "tensorrt<11"'


if TYPE_CHECKING:
    import tensorrt
    from tensorrt import IInt8EntropyCalibrator2, IInt8MinMaxCalibrator

    UNAVAILABLE: str | None = None
else:
    try:
        import tensorrt
        from tensorrt import IInt8EntropyCalibrator2, IInt8MinMaxCalibrator

        UNAVAILABLE = None
    except (ImportError, OSError, RuntimeError) as error:  # the latter two: without its libraries
        IInt8EntropyCalibrator2 = IInt8MinMaxCalibrator = object
        UNAVAILABLE = why_unavailable(error)


def version_number(version: str) -> int:
    """``header_version`` of the installed TensorRT. Raises CalibrationError for another major version than 10."""
    number = header_version(version)
    if number is None:
        raise CalibrationError(f'expected TensorRT 10, got {version}; type {INSTALL} "tensorrt<11"')
    return number


class _Calibrator:
    """What both calibrators do. They differ in TensorRT's base class, which chooses the scales.

    ``ranges`` and ``cache_text`` hold the result once it is there.
    """

    _calibrator: ClassVar[str]

    def __init__(
        self,
        model: nn.Module | None,
        spec: InputSpec,
        *,
        batches: Batches | None = None,
        samples: int = 512,
        batch_size: int = 64,
        options: ZSCGANOptions | None = None,
        classes: int | None = None,
        cache: Path | str | None = None,
        recalibrate: bool = False,
        fingerprint: str | None = None,
        input_name: str | None = None,
        memory: DeviceMemory | None = None,
        on_progress: Progress = lambda _phase, _step, _steps: None,
    ) -> None:
        """All that can fail before TensorRT calls happens here, the training too.

        - ``model`` is the network that the ONNX file came from; it is left as it is. It may be None where
          there are ``batches``, and a ``fingerprint`` if there is a ``cache``.
        - ``spec`` is the network's one input, FP32 in NCHW.
        - ``batches`` are the calibration data, for example ``images_from_path(...)``. Without them a generator
          is trained on ``model``, as ``options`` say, and gives ``samples`` inputs. ``classes`` is the number
          of logits; None finds it by a forward pass.
        - The data is cut into batches of one size, at most ``batch_size``, and fewer samples than there are
          batches are left out (``plan_from_samples``). The calibration profile must say ``batch_shape``. For a
          network with a fixed batch give that as ``batch_size``, and as ``samples`` a multiple of it.
        - ``cache`` is the path of TensorRT's calibration cache. A cache there is used, and nothing is trained,
          if it was made for this model and input (our ``.json`` beside it says so), by this calibrator and the
          installed TensorRT, and from data of the kind of ``batches``, if those are given. With
          ``recalibrate`` it is made anew.
        - ``fingerprint`` names model and input; None takes ``fingerprint_for_input``.
        - ``input_name`` is checked where it is given. ``memory`` takes the batches; None is PyTorch's CUDA
          memory. ``on_progress`` is called after each step.

        Raises CalibrationError where TensorRT 10, a GPU or data is missing, CacheError for a cache that may not
        be used, GeneratorError for a model that no generator can be trained on.
        """
        if UNAVAILABLE is not None:
            raise CalibrationError(UNAVAILABLE)
        super().__init__()  # TensorRT's class, which stands behind this one
        self._header = CacheHeader(self._calibrator, version_number(tensorrt.__version__))
        self._plan = plan_from_samples(samples_of(batches, samples), batch_size)
        self._shape, self._input_name, self._on_progress = spec.shape, input_name, on_progress
        self._error: BaseException | None = None
        self._path = None if cache is None else Path(cache)
        self._fingerprint = fingerprint if self._path is None else fingerprint_from(model, spec, fingerprint)
        self.ranges = None if recalibrate else self._cached(batches)
        self.cache_text = None if self.ranges is None else text_from_ranges(self.ranges, self._header.version)
        self._feed: Feed | None = None
        if self.ranges is not None:
            return
        if self._path is not None:
            check_free(self._path)
        memory = memory or cuda_memory()
        if batches is None:
            batches = self._trained(model, spec, options or ZSCGANOptions(), classes)
        self._source: Source = source_of(batches)
        self._seed = None if self._source == "images" else getattr(batches, "seed", None)
        self._feed = Feed(equal_batches(batches, self._plan, spec.shape), memory)
        release_gpu_memory()  # of the training

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Shape of every batch that TensorRT gets, for the calibration profile."""
        return (self._plan.size, *self._shape)

    def get_batch_size(self) -> int:
        """Samples in each batch."""
        return self._plan.size

    def get_batch(self, names: list[str]) -> list[int]:
        """Device address of the next batch, in a list; an empty list after the last."""
        if self._error is not None:
            return []
        with self._keeping_errors():
            self._check_input(names)
            if self._feed is None:
                raise CacheError(
                    f"TensorRT asked for data, so it refused the calibration cache {self._path}; calibrate "
                    f"again ({REPAIR})"
                )
            pointer = self._feed.next_pointer()
            if pointer is None:
                return []
            self._on_progress("calibration", self._feed.handed_over, self._plan.count)
            return [pointer]

    def read_calibration_cache(self) -> bytes | None:
        """The cache, if there is one that may be used, or the result of an earlier build."""
        return None if self._error is not None else self.cache_text

    def write_calibration_cache(self, cache: memoryview) -> None:
        """Check TensorRT's result and keep it; write it to ``cache``, if that was given."""
        if self._error is not None or self._feed is None:
            return  # made from half of the data, or what read_calibration_cache gave
        with self._keeping_errors():
            text = bytes(cache)  # the memory is TensorRT's
            self.ranges = self._ranges_from(cache_from_tensorrt(text, self._header))
            self.cache_text = text
            if self._path is not None:
                save_pair(self.ranges, text, self._path)

    def raise_error(self) -> None:
        """Raise the first exception of a callback, which TensorRT only printed. Call it after the build."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give the device memory back. Only after the build."""
        if self._feed is not None:
            self._feed.free()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.raise_error()

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """Remember the exception that TensorRT is about to swallow, KeyboardInterrupt too."""
        try:
            yield
        except BaseException as error:
            self._error = error
            raise

    def _check_input(self, names: list[str]) -> None:
        """Raise CalibrationError for anything but the one input."""
        expected = "one input" if self._input_name is None else f"one input '{self._input_name}'"
        if len(names) != 1 or self._input_name not in (None, names[0]):
            raise CalibrationError(f"expected a network with {expected}, got {', '.join(names) or 'none'}")

    def _cached(self, batches: Batches | None) -> Ranges | None:
        """Ranges of a cache that may be used."""
        if self._path is None or self._fingerprint is None:
            return None
        ranges = trusted_ranges(self._path, self._fingerprint, self._header)
        if ranges is not None and batches is not None and ranges.source != source_of(batches):
            raise CacheError(
                f"expected {self._path} to come from {source_of(batches)}, as the batches do, got "
                f"{ranges.source}; calibrate again ({REPAIR}), or leave batches out to use the cache"
            )
        return ranges

    def _trained(
        self, model: nn.Module | None, spec: InputSpec, options: ZSCGANOptions, classes: int | None
    ) -> SyntheticBatches:
        """Samples of a generator that is trained now."""
        if model is None:
            raise CalibrationError("expected a model to make samples for, or batches=, but both are None")

        def on_step(step: int, steps: int) -> None:
            self._on_progress("synthesis", step, steps)

        plan = self._plan
        return batches_from_model(
            model, spec, plan.samples, plan.size, options, classes=classes, on_step=on_step
        )

    def _ranges_from(self, cache: CalibrationCache) -> Ranges:
        """TensorRT's scales as ranges, with what they were made from."""
        assert self._feed is not None
        samples = self._feed.handed_over * self._plan.size
        if samples == 0:
            raise CalibrationError("expected TensorRT to ask for data, but it calibrated without any")
        amax = {name: amax_from_scale(scale) for name, scale in cache.scales.items()}
        return Ranges(amax, cache.algorithm, samples, self._seed, self._source, self._fingerprint)


# TensorRT's stubs know neither that a cache may be None nor which buffer TensorRT hands over.
class ZSCGANEntropyCalibrator(_Calibrator, IInt8EntropyCalibrator2):  # type: ignore[misc]
    """TensorRT's entropy calibrator 2: it clips outliers, which suits convolutional networks."""

    _calibrator = ENTROPY_CALIBRATOR


class ZSCGANMinMaxCalibrator(_Calibrator, IInt8MinMaxCalibrator):  # type: ignore[misc]
    """TensorRT's min-max calibrator: the largest value that was seen is the range."""

    _calibrator = MINMAX_CALIBRATOR


def samples_of(batches: Batches | None, limit: int) -> int:
    """How many samples there are to calibrate on, up to ``limit``. Raises CalibrationError for none."""
    if batches is None:
        return limit
    if batches.num_samples < 1:
        raise CalibrationError("expected calibration data, got batches without samples")
    return min(limit, batches.num_samples)


def source_of(batches: Batches) -> Source:
    """Where the batches come from: of samples of ours what they say, else ``images``."""
    found: Source = getattr(batches, "origin", "images")
    return found


def fingerprint_from(model: nn.Module | None, spec: InputSpec, given: str | None) -> str:
    """The fingerprint that is given, else that of the model with its input."""
    if given is not None:
        return given
    if model is None:
        raise CalibrationError(
            "expected a model, or its fingerprint=, to tell whose cache it is, but both are None"
        )
    return fingerprint_for_input(fingerprint_of(model.state_dict()), spec)
