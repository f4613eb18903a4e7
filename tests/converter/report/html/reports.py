"""Reports to make pages of: one with every field filled in, one with as few as a conversion can leave."""

import json
import math
from typing import Any

from converter.report.document import SCHEMA, Report, plain, report_from_json

HOSTILE = "<img src=x onerror=\"alert('1')\"> & 'q' </script><script>alert(2)</script>"
"""What a file or a class may be called."""


POOR_LABELS = {
    "code": "poor-labels",
    "text": "only 73.4 % of the samples are classified as their intended class; increase --gan-steps",
    "advice": "Ranges follow the statistics and need no labels. Give more steps.",
}


def full_report(layers: int = 12, name: str = "resnet18", class_name: str = "tabby cat") -> Report:
    """A conversion with everything: samples, --val, fine-tuning, mixed precision, prediction, a TensorRT plan."""
    nodes = [f"relu_{i}" for i in range(layers)]
    return report(
        command=f"zscgan-convert {name}.pth --int8 --qat --val images --max-drop 0.5 -o out",
        options={
            "model": {"model": f"{name}.pth", "input_shape": [3, 224, 224], "trust_pickle": False},
            "build": {"min_batch": 1, "timing_cache": None},
            "implicit": False,
            "max_drop": 0.5,
        },
        seed=7,
        device={"type": "cuda", "gpu": "NVIDIA L4", "cpu": "AMD EPYC", "threads": 8, "ranks": 1},
        versions={"python": "3.11.7", "zscgan-convert": "0.1.0", "torch": "2.14.1"},
        model={
            "name": name,
            "sha256": "12fca82f" * 8,
            "parameters": 11_689_512,
            "bn_layers": 20,
            "classes": 1000,
            "input": {"shape": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            "notes": ["architecture resnet18, found by the names of the weights"],
            "onnx_largest_difference": 5.2e-6,
        },
        stages=[
            {"name": "load", "seconds": 0.0471, "detail": "resnet18: 11.69 M parameters"},
            {"name": "synthesis", "seconds": 271.25, "detail": "250 steps, batch-norm KL 0.0103"},
            {"name": "verify", "seconds": 11.5, "detail": ""},
        ],
        seconds=283.917,
        synthesis={
            "steps": 250,
            "seconds": 269.31,
            "bn_kl": 0.010321,
            "label_accuracy": 93.36,
            "generators": 2,
            "classes": 1000,
            "shown": [{"class": 3, "name": class_name}, {"class": 281, "name": "volcano"}],
            "reused": False,
            "history": [
                {"step": s, "bn_kl": 0.25 * math.exp(-s / 50) + 0.01, "label": 6.9 * math.exp(-s / 70) + 0.02}
                for s in range(250)
            ],
        },
        calibration={
            "cache_version": "10.16.1",
            "algorithm": "mse",
            "samples": 512,
            "source": "zscgan",
            "divergence": {"entropy": 0.0213, "max": 0.0179, "percentile": 0.0188, "mse": 0.0097},
            "ranges": {node: 2.5 + (7 * i) % 11 / 3 for i, node in enumerate(nodes)},
        },
        quantization={
            "weights": layers,
            "activations": layers,
            "float_macs_percent": 0.0,
            "edges": edges(nodes),
            "convolutions": layers,
            "int8_convolutions": layers - 1,
        },
        engine=plan_layers(),
        agreement={"synthetic_top1": 97.46, "samples": 512, "percent": 97.46, "standard_error": 0.7},
        accuracy={
            "images": 5000,
            "fp32_top1": 69.76,
            "fp32_by": "ONNX Runtime on the CPU",
            "int8_top1": 69.52,
            "agreement": 96.14,
            "standard_error": 0.27,
            "metric": "top-1",
            "fp32": 69.76,
            "int8": 69.52,
        },
        qat={
            "backend": "modelopt",
            "steps": 60,
            "seconds": 88.4,
            "data": "zscgan",
            "kept": "qat",
            "agreement": {"ptq": 95.31, "qat": 97.27},
            "kl": {"ptq": 0.0213, "qat": 0.0101},
            "parity": {"largest_logit_difference": 0.0132, "agreement": 99.8},
            "history": [
                {"step": s, "loss": 0.4 / (s + 1), "agreement": 95.0 + s / 30 if s % 10 == 0 else None}
                for s in range(60)
            ],
        },
        sensitivity=sensitivity(nodes),
        mixed_precision={
            "target": 0.5,
            "met": True,
            "by": "val",
            "drop": 0.24,
            "all_int8_drop": 0.92,
            "kept_float": [
                {"layers": nodes[:2], "macs_share": 3.125, "kl": 0.0412, "drop_without": 0.71},
                {"layers": nodes[5:6], "macs_share": 1.5, "kl": 0.0107, "drop_without": None},
            ],
            "int8_macs_share": 95.375,
            "tried": 4,
        },
        prediction={
            "disagreement": 3.42,
            "low": 2.65,
            "high": 4.31,
            "drop": 0.372,
            "drop_low": 0.128,
            "drop_high": 0.694,
            "confidence": 95,
            "known_error": {"median": 0.43, "largest": 3.42},
            "inputs": 2048,
        },
        throughput=[
            timing(precision, batch, speed)
            for batch, speeds in ((1, (512.5, 1100.25, 1612.75)), (8, (1490.5, 3415.0, 5320.5)))
            for precision, speed in zip(("fp32", "fp16", "int8"), speeds, strict=True)
        ],
        artifacts={
            file: f"out/{file}"
            for file in (
                "model.fp32.onnx",
                "model.int8.onnx",
                "model.tensorrt.plan",
                "report.json",
                "samples.png",
            )
        },
        artifact_bytes={"model.fp32.onnx": 46_750_120, "model.int8.onnx": 11_803_440, "samples.png": 36_216},
        warnings=[POOR_LABELS["text"], "a warning that says it all"],
        warning_details=[POOR_LABELS, {"code": "plain", "text": "a warning that says it all"}],
    )


def report(**document: Any) -> Report:
    """The report of these fields; numbers that JSON has no word for stay."""
    content = plain(document | {"schema": SCHEMA})
    return report_from_json(json.dumps(content))


def bare_report() -> Report:
    """Ranges from a cache, no samples, no --val, ONNX Runtime."""
    return report(
        command="zscgan-convert tiny.pth --int8 --calibration-cache tiny.cache",
        options={"model": {"model": "tiny.pth"}, "max_drop": None},
        seed=0,
        device={"type": "cpu", "gpu": None, "cpu": "AMD EPYC", "threads": 2},
        versions={"python": "3.11.7", "zscgan-convert": "0.1.0"},
        model={
            "name": "tiny",
            "sha256": "ab" * 32,
            "parameters": 12,
            "bn_layers": 0,
            "classes": 2,
            "input": {"shape": [1, 8, 8]},
            "notes": [],
        },
        calibration={
            "algorithm": "entropy",
            "samples": None,
            "source": "cache",
            "ranges": {"input": 2.64},
            "cache_version": "10.16.1",
        },
        quantization={
            "weights": 0,
            "activations": 0,
            "float_macs_percent": 0.0,
            "edges": [],
            "convolutions": 0,
            "int8_convolutions": 0,
        },
    )


def edges(nodes: list[str]) -> list[dict[str, Any]]:
    activations = [
        {
            "tensor": n,
            "kind": "activation",
            "axis": None,
            "consumers": [f"conv2d_{i}"],
            "range_of": n,
            "amax": 2.5 + i,
        }
        for i, n in enumerate(nodes)
    ]
    weights = [
        {"tensor": f"layer{i}.conv.weight", "kind": "weight", "axis": 0, "consumers": [f"conv2d_{i}"],
         "range_of": None, "amax": None}
        for i in range(len(nodes))
    ]  # fmt: skip
    return activations + weights


def sensitivity(nodes: list[str]) -> dict[str, Any]:
    layers = [
        {"name": n, "op": "Conv", "macs": 115_605_504 // (i + 1), "parameters": 36_864, "sqnr_db": 18.25 + 2 * i,
         "kl": 0.0412 / (i + 1), "int8": i > 1}
        for i, n in enumerate(nodes)
    ]  # fmt: skip
    tensors = [
        {"name": layer["name"], "kind": "activation", "layer": layer["name"], "sqnr_db": layer["sqnr_db"] + 3,
         "kl": layer["kl"] / 2}
        for layer in layers
    ]  # fmt: skip
    tensors.append(
        {"name": "fc.weight", "kind": "weight", "layer": "logits", "sqnr_db": float("inf"), "kl": 0.0}
    )
    return {"inputs": 256, "seconds": 31.75, "kl": 0.0631, "tensors": tensors, "layers": layers}


def plan_layers() -> dict[str, Any]:
    return {
        "name": "tensorrt",
        "precision": "int8",
        "detailed": True,
        "layers": 31,
        "counts": {"fp32": 2, "int8": 24},
        "compute": 21,
        "int8_percent": 95.24,
        "not_int8": [
            {
                "name": "/fc/Gemm",
                "kind": "matmul",
                "precision": "fp32",
                "onnx_nodes": ["/fc/Gemm"],
                "ms": 0.0133,
            }
        ],
        "reformats": [
            {
                "name": "Reformatting CopyNode for input",
                "origin": "REFORMAT",
                "from": [],
                "to": [],
                "ms": 0.0082,
            },
            {"name": "input_quantize", "origin": "QDQ", "from": [], "to": [], "ms": None},
        ],
        "times_ms": {"int8": 0.431, "not_int8": 0.0133, "reformat": 0.0082, "other": 0.102, "total": 0.5545},
        "warnings": [],
    }


def timing(precision: str, batch: int, speed: float) -> dict[str, Any]:
    latency = 1000 * batch / speed
    return {
        "engine": "tensorrt",
        "precision": precision,
        "batch": batch,
        "images_per_s": speed,
        "latency_ms": {"median": latency, "p90": 1.05 * latency, "p99": 1.25 * latency},
        "iterations": 1000,
    }
