"""What a TensorRT plan really runs in: the engine inspector's JSON, read layer by layer.

A Q/DQ network asks for INT8; which layers got it is TensorRT's choice, and where a neighbour wants another
layout it adds reformats, which cost time. The JSON is that of ``EngineInspector.get_engine_information`` for a
plan that was built with ``ProfilingVerbosity.DETAILED``. Its shape differs between versions:

- tensors have ``Format/Datatype`` up to TensorRT 10 ("Int8", "Half", or a sentence such as "Channel major FP16
  format where channel % 8 == 0"), ``Format`` beside ``Datatype`` or ``DataType`` after it; with a dynamic batch
  it can be "N/A due to dynamic shapes", and then the kernel's name and the weights tell the precision;
- layers are objects, or plain names where the plan was built without details;
- ``Metadata`` holds the ONNX nodes as "[ONNX Layer: NAME]", between the separators U+001E and U+001F.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engines.errors import BuildError
from zscgan_common.warning_message import WarningMessage

UNKNOWN = "unknown"
REFORMATS_WORTH_A_WARNING = 0.10
"""Share of the time: under this, fixing reformats gains less than a measurement's noise."""

_NAMES_SHOWN = 3

_PRECISIONS = {
    "int8": "int8", "fp8": "fp8", "fp16": "fp16", "half": "fp16", "bfloat16": "bf16", "bf16": "bf16",
    "fp32": "fp32", "float": "fp32", "int32": "int32", "int64": "int64", "bool": "bool", "uint8": "uint8",
}  # fmt: skip
_COMPUTED_IN = ("int8", "fp8", "fp16", "bf16", "fp32")
_DATATYPE = re.compile(rf"\b(?:{'|'.join(_PRECISIONS)})\b", re.IGNORECASE)
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s\[+]|$)")

# Kernels of the xmma library are named by their types, that of the data first:
# sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_... reads INT8.
_KERNEL_TYPE = re.compile(
    r"_(i8|f16|bf16|tf32|f32|e4m3)(?:i8|i32|u8|f16|bf16|tf32|f32|e4m3)_|(imma)|(h884|h1688|h16816)|(sgemm|scudnn)"
)
_KERNEL_PRECISIONS = ("int8", "fp16", "fp32")  # of the last three groups
_FIRST_TYPES = {"i8": "int8", "f16": "fp16", "bf16": "bf16", "tf32": "fp32", "f32": "fp32", "e4m3": "fp8"}

# Layer types by kind. "correlation" and "gemm" are Myelin's own words; Myelin is TensorRT's compiler for
# whatever has no ready kernel, and the only one of TensorRT for RTX.
_KINDS = (
    ("reformat", re.compile(r"reformat|noop", re.IGNORECASE)),
    ("convolution", re.compile(r"conv|correlation", re.IGNORECASE)),
    ("matmul", re.compile(r"gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)),
    ("myelin", re.compile(r"^(?:kgen|fusion|myelin.*)$", re.IGNORECASE)),
)
_COPY_NODE = re.compile(r"^Reformatting CopyNode\b")
_OTHER_PROFILE = re.compile(r"\[profile [1-9]\d*\]")
_SYNCHRONISATION = frozenset({"signal", "wait"})
_FUSED_PRODUCT = re.compile(r"(?i:gemm|matmul|fprop|correlation|foreignnode)|mha|(?:Fc|Conv)(?![a-z])")


@dataclass(frozen=True)
class Tensor:
    """A layer's input or output. ``precision`` is its data type, ``layout`` the inspector's words for it."""

    name: str
    precision: str
    layout: str


@dataclass(frozen=True)
class Layer:
    """One layer of the plan; often several ONNX nodes in one kernel.

    ``kind`` is ``convolution``, ``matmul``, ``myelin`` (fused by TensorRT's compiler), ``reformat`` or ``other``.
    ``precision`` is what it computes in, or ``unknown``. ``is_compute`` is true of what costs arithmetic:
    convolutions and matrix products, also those inside of a Myelin layer. ``origin`` tells why a reformat is
    there: ``REFORMAT`` for another layout, ``QDQ`` for a quantizer that could not be fused. ``ms`` is the
    measured time where there is one.
    """

    name: str
    kind: str
    precision: str
    is_compute: bool
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    onnx_nodes: tuple[str, ...] = ()
    origin: str = ""
    ms: float | None = None

    @property
    def is_reformat(self) -> bool:
        """Whether it only moves data to another layout or type."""
        return self.kind == "reformat"

    @property
    def label(self) -> str:
        """The ONNX nodes, which a user can find in the network, else the layer's own name."""
        return " + ".join(self.onnx_nodes) or self.name


@dataclass(frozen=True)
class EngineLayers:
    """The layers of a plan in the order of execution.

    ``detailed`` is false where the plan holds names alone. ``unmatched_ms`` is measured time of layers that
    the inspector doesn't name; None where nothing was measured.
    """

    layers: tuple[Layer, ...]
    detailed: bool = True
    unmatched_ms: float | None = None

    @property
    def compute(self) -> tuple[Layer, ...]:
        """Convolutions and matrix products."""
        return tuple(layer for layer in self.layers if layer.is_compute)

    @property
    def not_int8(self) -> tuple[Layer, ...]:
        """Those that run in something else than INT8, as far as the inspector tells."""
        return tuple(layer for layer in self.compute if layer.precision not in {"int8", UNKNOWN})

    @property
    def reformats(self) -> tuple[Layer, ...]:
        """Layers that only move data."""
        return tuple(layer for layer in self.layers if layer.is_reformat)

    @property
    def precision(self) -> str:
        """``int8`` if any convolution or matrix product reads INT8, else ``fp16``, ``fp32`` or ``unknown``.

        A plan of someone else's can also be ``fp8`` or ``bf16``. Where no layer is known to be one of these,
        the fused layers of Myelin speak for the plan.
        """
        speakers = self.compute or tuple(layer for layer in self.layers if layer.kind == "myelin")
        found = {layer.precision for layer in speakers}
        return next((name for name in _COMPUTED_IN if name in found), UNKNOWN)

    @property
    def counts(self) -> dict[str, int]:
        """How many layers compute in each precision, reformats left out."""
        found = [layer.precision for layer in self.layers if not layer.is_reformat]
        return {name: found.count(name) for name in dict.fromkeys(sorted(found))}

    @property
    def int8_percent(self) -> float | None:
        """How many of the convolutions and matrix products are in INT8; None where no precision is known."""
        found = [layer.precision for layer in self.compute]
        return 100 * found.count("int8") / len(found) if set(found) - {UNKNOWN} else None

    @property
    def times_ms(self) -> dict[str, float] | None:
        """Milliseconds of the groups ``int8`` and ``not_int8`` (convolutions and matrix products),
        ``reformat``, ``other`` and ``total``; None where nothing was measured."""
        if self.unmatched_ms is None:
            return None
        times = {"int8": 0.0, "not_int8": 0.0, "reformat": 0.0, "other": self.unmatched_ms}
        for layer in self.layers:
            times[_time_group(layer)] += layer.ms or 0.0
        return {**times, "total": sum(times.values())}

    def with_times(self, times: Mapping[str, float]) -> "EngineLayers":
        """The same with milliseconds by layer name, as TensorRT's profiler reports them.

        Of layers with the same name, the first gets the time.
        """
        left = dict(times)
        layers = tuple(replace(layer, ms=left.pop(layer.name, None)) for layer in self.layers)
        return replace(self, layers=layers, unmatched_ms=sum(left.values(), 0.0))

    def warnings(self, *, int8: bool = True) -> list[WarningMessage]:
        """What a user can gain from; ``int8`` says whether INT8 was asked for."""
        if not self.detailed:
            return [
                WarningMessage(
                    "plan-without-details",
                    "the plan holds layer names alone, so the precision of its layers is unknown; build it with "
                    "detailed profiling verbosity",
                    "Which layers run in INT8 can't be told from this plan; one that this tool builds has the details.",
                )
            ]
        found = []
        if int8 and self.not_int8:
            found.append(
                WarningMessage(
                    "not-int8",
                    _left_out(self.not_int8, len(self.compute)),
                    "TensorRT found no INT8 kernel for them, or a faster one in another precision. The table of "
                    "TensorRT's layers below names them; --fp16 speeds up those that are left in FP32.",
                )
            )
        times = self.times_ms
        if times and times["total"] and times["reformat"] / times["total"] >= REFORMATS_WORTH_A_WARNING:
            slowest = sorted(self.reformats, key=lambda layer: -(layer.ms or 0.0))
            found.append(
                WarningMessage(
                    "reformats",
                    f"reformats take {100 * times['reformat'] / times['total']:.0f} % of the time "
                    f"({times['reformat']:.3g} of {times['total']:.3g} ms), most of all: {_listed(slowest)}",
                    "Data is converted between neighbours that want another layout. The table of TensorRT's layers "
                    "below names the places; a layer there that is not in INT8 is the usual cause.",
                )
            )
        return found

    def summary(self) -> str:
        """One line for a terminal."""
        if not self.detailed:
            return f"{len(self.layers)} layers, their precision unknown"
        found = [layer.precision for layer in self.compute]
        unknown = f" ({found.count(UNKNOWN)} unknown)" if UNKNOWN in found else ""
        text = (
            f"{len(self.layers)} layers: {found.count('int8')} of {len(found)} convolutions and matrix products in "
            f"INT8{unknown}, {_counted(len(self.reformats), 'reformat')}"
        )
        times = self.times_ms
        if times and times["total"]:
            text += f" ({100 * times['reformat'] / times['total']:.0f} % of the time)"
        return text

    def to_json(self, *, int8: bool = True) -> dict[str, object]:
        """The plan's entry of ``report.json``; times in milliseconds, None where not measured."""
        return {
            "precision": self.precision,
            "detailed": self.detailed,
            "layers": len(self.layers),
            "counts": self.counts,
            "compute": len(self.compute),
            "int8_percent": self.int8_percent,
            "not_int8": [
                {"name": layer.name, "kind": layer.kind, "precision": layer.precision,
                 "onnx_nodes": list(layer.onnx_nodes), "ms": layer.ms}
                for layer in self.not_int8
            ],
            "reformats": [
                {"name": layer.name, "origin": layer.origin, "from": _tensors(layer.inputs),
                 "to": _tensors(layer.outputs), "ms": layer.ms}
                for layer in self.reformats
            ],
            "times_ms": self.times_ms,
            "warnings": list(map(str, self.warnings(int8=int8))),
        }  # fmt: skip


def layers_from_json(text: str) -> EngineLayers:
    """The layers of the inspector's JSON. Of several optimization profiles, the first.

    Raises BuildError for a text that isn't the inspector's; a field that is missing or new is ``unknown``.
    """
    try:
        # Not strict: some versions write the separators of Metadata as they are.
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise BuildError(f"expected the engine inspector's JSON, got {_beginning(text)}: {error}") from error
    entries = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise BuildError(
            f"expected the engine inspector's JSON with a list of Layers, got {_beginning(text)}"
        )
    records = [entry if isinstance(entry, dict) else {"Name": str(entry)} for entry in entries]
    records = [record for record in records if _is_wanted(record)]
    layers = tuple(_layer(record) for record in records)
    return EngineLayers(layers, detailed=any("LayerType" in record for record in records))


def _is_wanted(record: Mapping[str, Any]) -> bool:
    name, layer_type = str(record.get("Name", "")), str(record.get("LayerType", ""))
    return not _OTHER_PROFILE.search(name) and layer_type not in _SYNCHRONISATION


def _layer(record: Mapping[str, Any]) -> Layer:
    name = str(record.get("Name", UNKNOWN))
    kind = _kind(record, name)
    tactic = str(record.get("TacticName", ""))
    # ONNX nodes don't count here: a Myelin layer that only quantizes names the convolution that it is for.
    fused = kind == "myelin" and bool(_FUSED_PRODUCT.search(f"{name} {tactic}"))
    is_compute = fused or kind in {"convolution", "matmul"}
    inputs, outputs = _tensors_of(record, "Inputs"), _tensors_of(record, "Outputs")
    precision = (
        _compute_precision(record, inputs, tactic) if is_compute else _plain_precision(inputs, outputs)
    )
    return Layer(
        name=name,
        kind=kind,
        precision=precision,
        is_compute=is_compute,
        inputs=inputs,
        outputs=outputs,
        onnx_nodes=tuple(_ONNX_NODE.findall(str(record.get("Metadata", "")))),
        origin=str(record.get("Origin", "")),
    )


def _kind(record: Mapping[str, Any], name: str) -> str:
    if _COPY_NODE.search(name):
        return "reformat"
    # The layer type is the kernel's family, which can hide what it does: the parameters tell it then.
    types = [str(record.get(key, "")) for key in ("LayerType", "ParameterType")]
    return next((kind for kind, pattern in _KINDS for text in types if pattern.search(text)), "other")


def _tensors_of(record: Mapping[str, Any], side: str) -> tuple[Tensor, ...]:
    listed = record.get(side)
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    tensors = []
    for entry in entries:
        # The data type goes first: a format alone calls INT64 "INT8" in some versions.
        words = [entry.get(key) for key in ("Datatype", "DataType", "Format/Datatype")]
        stated = next((str(word) for word in words if word), "")
        layout = str(entry.get("Format") or entry.get("Format/Datatype") or stated)
        tensors.append(Tensor(str(entry.get("Name", UNKNOWN)), _precision(stated), layout.rstrip(".")))
    return tuple(tensors)


def _precision(words: str) -> str:
    match = _DATATYPE.search(words)
    return _PRECISIONS[match.group().lower()] if match else UNKNOWN


def _plain_precision(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> str:
    """The first data type that arithmetic is done in, else the first that is known."""
    known = [tensor.precision for tensor in (*inputs, *outputs) if tensor.precision != UNKNOWN]
    return next((name for name in known if name in _COMPUTED_IN), known[0] if known else UNKNOWN)


def _compute_precision(record: Mapping[str, Any], inputs: tuple[Tensor, ...], tactic: str) -> str:
    """What a convolution or matrix product reads.

    Its inputs tell it where they agree. They needn't: a residual can come in FP16 while the data is INT8, and
    INT8 weights can be multiplied in FP16. Then the kernel's name is the witness, then the weights.
    """
    read = [tensor.precision for tensor in inputs if tensor.precision in _COMPUTED_IN]
    if len(set(read)) == 1:
        return read[0]
    return next(
        (found for found in (_kernel_precision(tactic), _weights_precision(record)) if found != UNKNOWN),
        read[0] if read else UNKNOWN,
    )


def _kernel_precision(tactic: str) -> str:
    match = _KERNEL_TYPE.search(tactic)
    if match is None:
        return UNKNOWN
    if match.group(1):
        return _FIRST_TYPES[match.group(1)]
    return next(
        name for name, group in zip(_KERNEL_PRECISIONS, match.groups()[1:], strict=True) if group is not None
    )


def _weights_precision(record: Mapping[str, Any]) -> str:
    for key in ("Weights", "ConvWeights"):
        weights = record.get(key)
        if isinstance(weights, dict):
            return _precision(str(weights.get("Type", "")))
    return UNKNOWN


def _time_group(layer: Layer) -> str:
    if layer.is_reformat:
        return "reformat"
    if not layer.is_compute:
        return "other"
    return "int8" if layer.precision == "int8" else "not_int8"


def _left_out(layers: tuple[Layer, ...], compute: int) -> str:
    found = {layer.precision for layer in layers}
    precisions = "/".join(name.upper() for name in _COMPUTED_IN if name in found)
    verb = "runs" if len(layers) == 1 else "run"
    return (
        f"{len(layers)} of {compute} convolutions and matrix products {verb} in {precisions}, not in INT8: "
        f"{_listed(layers)}"
    )


def _listed(layers: tuple[Layer, ...] | list[Layer]) -> str:
    shown = ", ".join(layer.label for layer in layers[:_NAMES_SHOWN])
    more = len(layers) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tensors(tensors: tuple[Tensor, ...]) -> list[str]:
    return [tensor.layout for tensor in tensors]


def _beginning(text: str) -> str:
    return repr(text[:60]) if text.strip() else "an empty text"
