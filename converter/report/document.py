"""``report.json``: everything that was done, measured and warned of, in one file."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch

from converter.console import Reporter
from converter.environment.machine import processor
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.workspace import Workspace
from zscgan_common.files import write_atomic

REPORT, PAGE = "report.json", "report.html"
SCHEMA = 1
PACKAGES = (
    "zscgan-convert", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy",
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13-bindings", "pycuda",
)  # fmt: skip


@dataclass
class Report:
    """The fields of ``report.json``. Seconds, percent and milliseconds as their names say."""

    command: str
    options: dict[str, Any]
    seed: int
    device: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any]
    stages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    synthesis: dict[str, Any] | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] | None = None
    agreement: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    qat: dict[str, Any] | None = None
    sensitivity: dict[str, Any] | None = None
    mixed_precision: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    throughput: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    artifact_bytes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The report as JSON text, ``schema`` first."""
        document = {"schema": SCHEMA, **plain(self)}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def finish(
        self, reporter: Reporter, seconds: float, workspace: Workspace, coming: Iterable[str] = (REPORT,)
    ) -> None:
        """Fill in what is known at the end: stages, warnings, time, and where the outputs will lie.

        ``coming`` are the outputs that will be written from the report itself; their sizes are not known yet.
        """
        self.seconds = round(seconds, 3)
        self.stages = [plain(stage) for stage in reporter.stages]
        self.warnings = list(reporter.warnings)
        written = workspace.files()
        self.artifacts = {name: str(workspace.output / name) for name in [*written, *coming]}
        self.artifact_bytes = {name: workspace.path(name).stat().st_size for name in written}


def new_report(options: ConvertOptions, inputs: Inputs, command: str) -> Report:
    """A report with all that is known before the work begins."""
    teacher = inputs.teacher
    gpu = torch.cuda.get_device_name(inputs.device) if inputs.device.type == "cuda" else None
    return Report(
        command=command,
        options=plain(options),
        seed=options.synthesis.seed,
        device={
            "type": inputs.device.type,
            "gpu": gpu,
            "cpu": processor(),
            "threads": torch.get_num_threads(),
        },
        versions=versions(),
        model={
            "name": teacher.name,
            "sha256": teacher.sha256,
            "parameters": teacher.parameters,
            "bn_layers": teacher.bn_layers,
            "classes": teacher.classes,
            "input": plain(teacher.spec),
            "notes": list(teacher.notes),
        },
    )


def save_report(report: Report, path: Path) -> Path:
    """Write ``report.json``."""
    return write_atomic(path, report.to_json())


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return str(value) if isinstance(value, Path) else value


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Package -> installed version, with Python's; packages that aren't installed are left out."""
    names = (d.metadata["Name"] for d in importlib.metadata.distributions())
    installed = {name.lower().replace("_", "-") for name in names if name}
    found = {package: importlib.metadata.version(package) for package in packages if package in installed}
    return {"python": platform.python_version(), **found}
