"""``report.json``: everything that was done, measured and warned of, in one file.

Each section is a dataclass whose fields are those of the file, in its order; ``docs/report.md`` says what they mean.
Seconds, percent and milliseconds as their names say.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from calibrators.data.input_spec import InputSpec
from converter.trust.prediction import Prediction
from zscgan_common.files import write_atomic
from zscgan_common.warning_message import WarningMessage

REPORT, PAGE = "report.json", "report.html"
SCHEMA = 1


SOMETIMES = {"sometimes": True}
"""Metadata of a field that the file has only where it is not None."""


@dataclass(frozen=True)
class DeviceSection:
    """Where the conversion ran; ``measured_on`` is the GPU of the throughput, as ``zscgan-bench`` describes it."""

    type: str
    gpu: str | None
    cpu: str
    threads: int
    ranks: int = 1
    measured_on: dict[str, Any] | None = field(default=None, metadata=SOMETIMES)


@dataclass(frozen=True)
class ModelSection:
    """The network as it was given; ``outputs`` has the shape of each for one image."""

    name: str
    sha256: str
    parameters: int
    bn_layers: int
    classes: int | None
    input: InputSpec
    normalisation_from: str = "typed"
    task: str = "classes"
    outputs: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    onnx_largest_difference: float | None = None


@dataclass(frozen=True)
class StageSection:
    """One stage: its time and what came of it."""

    name: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class TrainingStep:
    """The losses of one step of the generator's training."""

    step: int
    bn_kl: float | None
    label: float | None


@dataclass(frozen=True)
class SynthesisSection:
    """The generator's training and its samples; ``shown`` has ``class`` and ``name`` of each column of the picture.

    At most ``guide_steps`` took each sample to its class, where the generator has not learned the classes; ``shown``
    are then those of the samples in the picture, row by row. ``procedural`` of the inputs that calibrate are procedural
    images.
    """

    steps: int
    seconds: float
    bn_kl: float | None
    label_accuracy: float | None
    generators: int
    classes: int
    shown: list[dict[str, int | str | None]]
    reused: bool
    history: list[TrainingStep]
    source: Literal["zscgan", "procedural"] = "zscgan"
    guide_steps: int = 0
    procedural: int = 0


@dataclass(frozen=True)
class CalibrationSection:
    """The ranges, and how they were found; ``divergence`` is nats by calibrator, where several were compared."""

    cache_version: str
    algorithm: str
    samples: int | None
    source: str
    ranges: dict[str, float]
    divergence: Mapping[str, float | None] | None = field(default=None, metadata=SOMETIMES)


@dataclass(frozen=True)
class EdgeSection:
    """A Q/DQ pair."""

    tensor: str
    kind: Literal["activation", "weight"]
    axis: int | None
    consumers: list[str]
    range_of: str | None
    amax: float | None


@dataclass(frozen=True)
class QuantizationSection:
    """What runs in INT8; the convolutions are those of ONNX Runtime's engine."""

    weights: int
    activations: int
    float_macs_percent: float
    edges: list[EdgeSection]
    convolutions: int
    int8_convolutions: int


@dataclass(frozen=True)
class OutputAgreement:
    """One output of INT8 beside FP32's: signal-to-noise ratio, and mean cosine of the inputs."""

    name: str
    sqnr_db: float | None
    cosine: float


@dataclass(frozen=True)
class AgreementSection:
    """How often INT8 says what FP32 says to fresh samples: ``percent`` of ``measure``.

    ``percent`` is None where FP32 finds nothing in any of them. ``synthetic_top1`` is that of a classifier.
    """

    synthetic_top1: float | None
    samples: int
    measure: str = "same class"
    percent: float | None = None
    standard_error: float | None = None
    outputs: list[OutputAgreement] = field(default_factory=list)


@dataclass(frozen=True)
class CPUInt8Section:
    """Layers of ONNX Runtime's engine in float where they are faster so; speeds by batch, as multiples of all in float.

    ``agreement`` is that of this very engine, where it has layers in float and was measured.
    """

    mode: str
    layers: int | None
    kept_float: list[str]
    speed: dict[str, float]
    all_int8_speed: dict[str, float]
    seconds: float
    agreement: AgreementSection | None = None

    @property
    def in_float(self) -> str:
        """How many layers are in float; empty where none is."""
        if self.is_fp32:
            return f"all {self.layers} layers in float"
        return f"{len(self.kept_float)} of {self.layers} layers in float" if self.kept_float else ""

    @property
    def is_fp32(self) -> bool:
        """Whether the engine is the FP32 network itself."""
        return 0 < len(self.kept_float) == self.layers


@dataclass(frozen=True)
class AccuracySection:
    """INT8 and FP32 on ``--val``: how often they agree, and where there are labels, the ``metric`` of both.

    ``agreement`` is None where FP32 finds nothing on any image. ``fp32_top1`` and ``int8_top1`` are those of a
    classifier.
    """

    images: int
    fp32_top1: float | None
    fp32_by: str
    int8_top1: float | None
    agreement: float | None
    measure: str = "same class"
    standard_error: float | None = None
    metric: str | None = None
    fp32: float | None = None
    int8: float | None = None


@dataclass(frozen=True)
class BeforeAndAfter:
    """A figure on held-out inputs without fine-tuning and with it."""

    ptq: float | None
    qat: float | None


@dataclass(frozen=True)
class ParitySection:
    """The fine-tuned network in PyTorch beside its Q/DQ model."""

    largest_logit_difference: float
    agreement: float


@dataclass(frozen=True)
class TuningStep:
    """One step of the fine-tuning; the agreement is measured in some of them."""

    step: int
    loss: float | None
    agreement: float | None


@dataclass(frozen=True)
class QATSection:
    """The fine-tuning."""

    backend: str
    steps: int
    seconds: float
    data: str
    kept: str
    agreement: BeforeAndAfter
    kl: BeforeAndAfter
    parity: ParitySection
    history: list[TuningStep]


@dataclass(frozen=True)
class TensorSensitivity:
    """One tensor alone in INT8."""

    name: str
    kind: str
    layer: str
    sqnr_db: float | None
    kl: float


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer alone in INT8; ``int8`` says whether it stayed there."""

    name: str
    op: str
    macs: int
    parameters: int
    sqnr_db: float | None
    kl: float
    int8: bool


@dataclass(frozen=True)
class SensitivitySection:
    """What each tensor and each layer costs, the most expensive first; ``kl`` is that of all together, in nats."""

    inputs: int
    seconds: float
    kl: float
    tensors: list[TensorSensitivity]
    layers: list[LayerSensitivity]


@dataclass(frozen=True)
class KeptFloat:
    """A group of layers in float; ``drop_without`` is the drop with it in INT8 again, where that was tried."""

    layers: list[str]
    macs_share: float
    kl: float
    drop_without: float | None


@dataclass(frozen=True)
class MixedPrecisionSection:
    """The choice of layers for ``--max-drop``."""

    target: float
    met: bool
    by: str
    drop: float
    all_int8_drop: float
    kept_float: list[KeptFloat]
    int8_macs_share: float
    tried: int


@dataclass(frozen=True)
class ThroughputSection:
    """One engine at one batch, as ``zscgan-bench`` has it."""

    engine: str
    precision: str
    batch: int
    images_per_s: float
    latency_ms: dict[str, float]
    iterations: int
    parts_ms: dict[str, dict[str, float]] | None = field(default=None, metadata=SOMETIMES)
    warnings: list[str] | None = field(default=None, metadata=SOMETIMES)


@dataclass(frozen=True)
class Report:
    """The fields of ``report.json``."""

    command: str
    options: dict[str, Any]
    seed: int
    device: DeviceSection
    versions: dict[str, str]
    model: ModelSection
    calibration: CalibrationSection
    quantization: QuantizationSection
    stages: list[StageSection] = field(default_factory=list)
    seconds: float = 0.0
    synthesis: SynthesisSection | None = None
    engine: dict[str, Any] | None = None
    cpu_int8: CPUInt8Section | None = None
    agreement: AgreementSection | None = None
    accuracy: AccuracySection | None = None
    qat: QATSection | None = None
    sensitivity: SensitivitySection | None = None
    mixed_precision: MixedPrecisionSection | None = None
    prediction: Prediction | None = None
    throughput: list[ThroughputSection] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    artifact_bytes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    warning_details: list[WarningMessage] = field(default_factory=list)

    def to_json(self) -> str:
        """The report as JSON text, ``schema`` first."""
        document = {"schema": SCHEMA, **plain(self)}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_from_json(text: str | bytes) -> Report:
    """The report that ``to_json`` wrote; raises ValueError for anything else, also another schema."""
    from pydantic import TypeAdapter

    document = json.loads(text)
    if not isinstance(document, dict) or "schema" not in document:
        raise ValueError("it has no schema")
    if (schema := document.pop("schema")) != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}, got {schema!r}")
    return TypeAdapter(Report).validate_python(document)


def save_report(report: Report, path: Path) -> Path:
    """Write ``report.json``."""
    return write_atomic(path, report.to_json())


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what JSON knows; numbers that it has no word for are None."""
    if is_dataclass(value) and not isinstance(value, type):
        found = ((entry, getattr(value, entry.name)) for entry in fields(value))
        return {
            entry.name: plain(content)
            for entry, content in found
            if content is not None or not entry.metadata.get("sometimes")
        }
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
