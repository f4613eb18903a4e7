"""All that the command line decides, checked together; free of heavy imports."""

from dataclasses import dataclass, field
from pathlib import Path

from calibrators.data.input_spec import Resize
from calibrators.options import ALGORITHMS, Algorithm, CalibrationOptions
from calibrators.ranges.cache_file import header_version
from calibrators.zscgan.options import ZSCGANOptions
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.qat.options import QATOptions
from engines.options import BUFFERS, CPU_INT8, BuildOptions

DEVICES = ("auto", "cpu", "cuda")
TASKS = ("auto", "classes", "labels", "boxes", "mask", "embedding", "any")
SAMPLES = ("auto", "zscgan", "procedural", "both")
IMPLICIT_ALGORITHMS = ("entropy", "max")
CALIBRATORS = ("auto", *ALGORITHMS)
OTHER_FILES = frozenset({
    ".npy", ".zip", ".tar", ".gz", ".h5", ".hdf5", ".pt", ".pth", ".pkl", ".onnx", ".csv", ".json", ".yaml", ".yml",
    ".txt", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".bin", ".raw", ".parquet", ".tfrecord", ".safetensors",
})  # fmt: skip
"""Names of files, and not of folders."""


@dataclass(frozen=True)
class ImageOptions:
    """Real images: ``calib_data`` calibrates in place of samples, ``val`` measures accuracy.

    Both are folders or .npz files. Images are resized so that the shorter side is ``resize``, or stretched to
    that height and width, then cropped to ``crop`` in the centre; None leaves them as they are.
    """

    calib_data: Path | None = None
    val: Path | None = None
    resize: Resize | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        for flag, size in (("--resize", self.resize), ("--crop", self.crop)):
            if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
                raise OptionsError(f"expected {flag} of at least 1 pixel, got {size}")


@dataclass(frozen=True)
class ConvertOptions:
    """One conversion.

    ``output`` of None is ``NAME_int8`` beside the caller. ``generator`` reuses a trained one;
    ``calibration_cache`` is read where it exists and written where not, ``recalibrate`` writes it anew.
    ``trt_version`` is the TensorRT 10 that will read the cache; None is the installed one.
    ``choose_calibrator`` compares all calibrators on the samples and takes the one nearest to FP32, in place of
    ``calibration.algorithm``. ``asked_algorithm`` is the calibrator where the user named one: a cache of another is
    then refused. ``asked_samples`` is the number of inputs that calibrate, where the user named one.
    ``qat`` fine-tunes the network with fake quantizers before it is exported.
    ``implicit`` has TensorRT 10 calibrate by itself from the samples, in place of Q/DQ pairs; ``buffers`` provides
    the GPU's memory. ``max_drop`` is the largest loss of accuracy, in percent points, that counts as passed, on
    the labels of ``images.val`` where there are some, else estimated; layers are kept out of INT8 for it. ``html``
    also writes the report as a page. ``task`` says what the outputs mean, ``decode`` names a callable that finds a
    detector's boxes in them; ``sample_source`` names where samples come from: auto is both, a generator's and as many
    procedural images, where there are batch norms, else procedural images alone. ``cpu_int8`` says which layers of ONNX
    Runtime's engine are in INT8 (``CPU_INT8``).
    """

    model: ModelOptions
    synthesis: ZSCGANOptions = field(default_factory=ZSCGANOptions)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    images: ImageOptions = field(default_factory=ImageOptions)
    qat: QATOptions | None = None
    build: BuildOptions = field(default_factory=BuildOptions)
    engine: str = "auto"
    output: Path | None = None
    generator: Path | None = None
    calibration_cache: Path | None = None
    recalibrate: bool = False
    trt_version: str | None = None
    device: str = "auto"
    choose_calibrator: bool = True
    asked_algorithm: Algorithm | None = None
    asked_samples: int | None = None
    max_drop: float | None = None
    implicit: bool = False
    buffers: str = BUFFERS[0]
    html: bool = True
    task: str = TASKS[0]
    decode: str | None = None
    sample_source: str = SAMPLES[0]
    cpu_int8: str = CPU_INT8[0]

    def __post_init__(self) -> None:
        if self.cpu_int8 not in CPU_INT8:
            raise OptionsError(f"expected --cpu-int8 from {', '.join(CPU_INT8)}, got {self.cpu_int8!r}")
        if self.implicit and self.calibration.algorithm not in IMPLICIT_ALGORITHMS:
            raise OptionsError(
                f"--implicit calibrates by TensorRT's own calibrators, which are {' and '.join(IMPLICIT_ALGORITHMS)}; "
                f"leave --implicit out for --calibrator {self.calibration.algorithm}"
            )
        if self.implicit and self.calibration_cache is not None:
            raise OptionsError(
                "--implicit has TensorRT calibrate by itself, so --calibration-cache would not be used; leave one of "
                "the two out (trtexec --int8 --calib=FILE builds implicitly from a cache)"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise OptionsError(f"expected --max-drop between 0 and 100 percent points, got {self.max_drop}")
        if self.generator is not None and self.images.calib_data is not None:
            raise OptionsError(
                "--generator and --calib-data exclude each other: samples or real images, type one"
            )
        refuse_idle_generator(self.sample_source, self.generator)
        if self.sample_source != "auto" and self.images.calib_data is not None:
            raise OptionsError(
                f"--samples {self.sample_source} and --calib-data exclude each other: samples or real images, type one"
            )
        refuse_idle_decode(self.task, self.decode)
        if self.qat is not None and self.implicit:
            raise OptionsError(
                "--qat gives a network with Q/DQ pairs, which --implicit does without; leave one of the two out"
            )
        if self.qat is not None and self.qat.data is None and self.images.calib_data is not None:
            raise OptionsError(
                "--qat fine-tunes on samples, but with --calib-data no generator is trained; add --qat-data DIR to "
                "fine-tune on real images (the same folder will do), or leave --calib-data out"
            )
        if self.trt_version is not None and header_version(self.trt_version) is None:
            raise OptionsError(
                "expected --trt-version of a TensorRT 10, the last with calibration caches, such as 10.3.0, got "
                f"{self.trt_version}; zscgan-doctor on the machine that reads the cache says its version"
            )
        if self.recalibrate and self.calibration_cache is None:
            raise OptionsError(
                "--recalibrate writes a calibration cache anew: name it with --calibration-cache FILE"
            )


def refuse_idle_generator(sample_source: str, generator: Path | None) -> None:
    """Raise OptionsError for a generator that --samples does without."""
    if sample_source == "procedural" and generator is not None:
        raise OptionsError("--samples procedural uses no generator; leave --generator or --samples out")


def refuse_idle_decode(task: str, decode: str | None) -> None:
    """Raise OptionsError for a decoder of boxes where the outputs are none."""
    if decode is not None and task not in ("auto", "boxes"):
        raise OptionsError(f"--decode finds boxes, but --task is {task}; leave one of the two out")


@dataclass(frozen=True)
class SampleOptions:
    """Samples as files for other tools.

    ``output`` is an archive, FILE.npz, or a folder of PNG files, which has a folder for each class where ``by_class``.
    ``normalised`` writes what the network takes under the name of its input in ONNX, or ``input_name``. ``report`` adds
    a picture, the generator and how good the samples are; ``overwrite`` replaces an output that exists. The rest is as
    in ConvertOptions.
    """

    model: ModelOptions
    output: Path
    count: int = CalibrationOptions.samples
    normalised: bool = False
    input_name: str | None = None
    by_class: bool = False
    report: bool = False
    overwrite: bool = False
    synthesis: ZSCGANOptions = field(default_factory=ZSCGANOptions)
    generator: Path | None = None
    device: str = "auto"
    task: str = TASKS[0]
    decode: str | None = None
    sample_source: str = SAMPLES[0]

    @property
    def archive(self) -> bool:
        """Whether the output is a NumPy archive."""
        return self.output.suffix.lower() == ".npz"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise OptionsError(f"expected -n of at least 1, got {self.count}")
        if self.output.suffix.lower() in OTHER_FILES:
            raise OptionsError(f"expected -o FILE.npz or -o DIR, got -o {self.output}")
        if self.normalised and not self.archive:
            raise OptionsError(
                f"--normalised writes an array for the network's input: expected -o FILE.npz, got -o {self.output}"
            )
        if self.by_class and self.archive:
            raise OptionsError(
                f"--class-folders are folders of PNG files: expected -o DIR, got -o {self.output}"
            )
        if self.input_name is not None and not self.normalised:
            raise OptionsError("--input-name names the array of --normalised: add that, or leave it out")
        refuse_idle_generator(self.sample_source, self.generator)
        refuse_idle_decode(self.task, self.decode)
