"""Whole conversions of a detector, a segmenter and a classifier without batch norms, as a user types them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from converter.cli.convert import command
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.load.task import task_of
from tests.converter import task_networks
from tests.converter.digits import QUICK, quick_conversions
from tests.converter.networks import randomised

NETWORKS = Path(task_networks.__file__)
INPUT = ["--input-shape", "3x32x32", "--preset", "unit"]
FLAGS = [*QUICK, "--engine", "onnxruntime"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder; throughput is measured briefly, few inputs are compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("converter.stages.verify.inputs_for", lambda _: 64)
    monkeypatch.setattr("converter.stages.calibration.inputs_for", lambda _: 64)
    monkeypatch.setattr("converter.qat.data.inputs_for", lambda _: 64)
    monkeypatch.setattr("converter.stages.mixed_precision.MOST_INPUTS", 64)
    with quick_conversions():
        yield tmp_path


def flags_for(network: type[nn.Module]) -> list[str]:
    """MODEL and its options."""
    torch.manual_seed(0)
    torch.save(randomised(network()).state_dict(), "net.pth")
    return ["net.pth", "--arch", f"{NETWORKS}:{network.__name__}", *INPUT]


def convert(network: type[nn.Module], *flags: str, code: int = 0) -> tuple[Any, str]:
    """The report, and what was said."""
    result = CliRunner().invoke(command, [*flags_for(network), *FLAGS, *flags, "-o", "out"])
    assert result.exit_code == code, result.output
    return json.loads(Path("out/report.json").read_text()), result.output


def pictures(folder: Path, count: int = 12) -> Path:
    """Unlabelled images."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((32, 32)).save(folder / f"{index}.png")
    return folder


def assert_outputs(found: Any, names: list[str]) -> None:
    """An entry an output, near to FP32's."""
    assert [output["name"] for output in found["outputs"]] == names
    for output in found["outputs"]:
        assert output["cosine"] > 0.9
        assert output["sqnr_db"] > 5


def test_a_detector_is_converted_and_compared_on_images_without_labels(here: Path) -> None:
    report, said = convert(task_networks.Detector, "--val", str(pictures(here / "val")))
    model = report["model"]
    assert (model["task"], model["classes"]) == ("boxes", None)
    assert model["outputs"] == {"output_0": [80, 2], "output_1": [80, 4]}
    assert (report["synthesis"]["source"], report["calibration"]["source"]) == ("zscgan", "zscgan")
    assert report["synthesis"]["label_accuracy"] is None
    assert report["synthesis"]["classes"] == 1
    agreement = report["agreement"]
    assert (agreement["measure"], agreement["synthetic_top1"]) == ("same boxes (IoU 0.5)", None)
    assert agreement["samples"] == 32
    assert 0 < agreement["percent"] <= 100
    assert_outputs(agreement, ["output_0", "output_1"])
    accuracy = report["accuracy"]
    assert (accuracy["images"], accuracy["measure"]) == (12, "same boxes (IoU 0.5)")
    assert [accuracy[name] for name in ("metric", "fp32", "int8", "fp32_top1", "int8_top1")] == [None] * 5
    assert 50 < accuracy["agreement"] <= 100
    assert report["prediction"] is None
    assert report["sensitivity"]["kl"] > 0
    assert f"same boxes (IoU 0.5) as FP32: {accuracy['agreement']:.2f} % on 12 images of --val" in said
    assert "classified as their intended class" not in said
    assert "nothing-found" not in [warning["code"] for warning in report["warning_details"]]


def test_where_a_detector_finds_nothing_no_agreement_is_claimed(here: Path) -> None:
    flags = ["--val", str(pictures(here / "val")), "--samples", "procedural", "--max-drop", "50"]
    report, said = convert(task_networks.BlindDetector, *flags)
    assert report["model"]["task"] == "boxes"
    agreement, accuracy = report["agreement"], report["accuracy"]
    assert (agreement["percent"], agreement["standard_error"]) == (None, None)
    assert (accuracy["agreement"], accuracy["standard_error"]) == (None, None)
    assert_outputs(agreement, ["output_0", "output_1"])
    fresh, images = (w for w in report["warning_details"] if w["code"] == "nothing-found")
    assert fresh["text"].startswith(
        "FP32 finds no box with a score of 0.25 or more in any of 32 fresh samples"
    )
    assert "--val" in fresh["advice"]
    assert "--max-drop" not in fresh["advice"]
    assert "in any of 12 images of --val" in images["text"]
    assert "--resize" in images["advice"]
    assert "--max-drop" in images["advice"]
    for inputs in ("32 fresh samples", "12 images of --val"):
        assert f"same boxes (IoU 0.5) as FP32: not measured, as FP32 finds nothing on {inputs}" in said


def boxes_of_fp32(folder: Path) -> None:
    """COCO's annotations beside the images: what the network itself finds."""
    given = ModelOptions("net.pth", f"{NETWORKS}:Detector", input_shape=(3, 32, 32), preset="unit")
    teacher = load_model(given)
    task, _ = task_of(teacher, "auto", None)
    images, annotations = [], []
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        with Image.open(path) as image:
            x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            (found,) = task.answers(tuple(output.numpy() for output in teacher.module(x)))
        images.append({"id": number, "file_name": path.name})
        for x1, y1, x2, y2, score, label in found[found[:, 4] >= 0.25].tolist():
            box = {"image_id": number, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({**box, "score": score})
    assert len(annotations) > 20
    categories = [{"id": label, "name": str(label)} for label in (0, 1)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "boxes.json").write_text(json.dumps(document))


def test_boxes_of_coco_measure_the_loss_and_it_bounds_the_layers(here: Path) -> None:
    flags_for(task_networks.Detector)
    boxes_of_fp32(pictures(here / "val"))
    flags = ["--val", str(here / "val"), "--samples", "procedural", "--max-drop", "99"]
    report, said = convert(task_networks.Detector, *flags)
    accuracy = report["accuracy"]
    assert accuracy["metric"] == "mAP"
    assert accuracy["fp32"] > 70  # boxes outside of an image are cut, and weaker ones count as wrong
    assert accuracy["fp32"] - accuracy["int8"] == pytest.approx(report["mixed_precision"]["drop"])
    assert (accuracy["fp32_top1"], accuracy["int8_top1"]) == (None, None)
    assert (report["mixed_precision"]["by"], report["mixed_precision"]["met"]) == ("val", True)
    assert re.search(
        rf"^  mAP +FP32 {accuracy['fp32']:.2f} % -> INT8 .* on 12 images of --val$", said, re.MULTILINE
    )
    assert (report["synthesis"]["source"], report["calibration"]["source"]) == ("procedural", "procedural")


def test_a_segmenter_is_fine_tuned_on_procedural_images(here: Path) -> None:
    flags = ["--samples", "procedural", "--qat", "--qat-steps", "4", "--max-drop", "60"]
    report, said = convert(task_networks.Segmenter, *flags)
    assert report["model"]["task"] == "mask"
    assert report["model"]["outputs"] == {"out": [5, 32, 32]}
    synthesis = report["synthesis"]
    assert (synthesis["source"], report["calibration"]["source"]) == ("procedural", "procedural")
    assert (synthesis["steps"], synthesis["generators"], synthesis["bn_kl"]) == (0, 0, None)
    assert (here / "out" / "samples.png").is_file()
    assert not (here / "out" / "generator.pt").exists()
    assert report["calibration"]["samples"] == 32
    assert len(report["calibration"]["divergence"]) == 4
    assert report["qat"]["data"] == "procedural"
    assert report["qat"]["steps"] == 4
    assert report["qat"]["agreement"]["ptq"] > 50
    assert report["mixed_precision"]["by"] == "agreement"
    assert report["mixed_precision"]["drop"] == pytest.approx(
        report["mixed_precision"]["all_int8_drop"]
    )  # met with all in INT8
    assert_outputs(report["agreement"], ["out"])
    assert report["agreement"]["percent"] > 50
    assert report["accuracy"] is None
    assert "differ more than rounding" not in said
    assert "the network has no batch norm" not in said


def test_masks_measure_the_loss(here: Path) -> None:
    pictures(here / "val" / "images")
    (here / "val" / "masks").mkdir()
    random = np.random.default_rng(0)
    for path in (here / "val" / "images").iterdir():
        mask = random.integers(0, 5, (32, 32)).astype(np.uint8)
        Image.fromarray(mask).save(here / "val" / "masks" / path.name)
    report, said = convert(task_networks.Segmenter, "--val", "val", "--samples", "procedural")
    accuracy = report["accuracy"]
    assert (accuracy["metric"], accuracy["images"]) == ("mIoU", 12)
    assert 0 < accuracy["fp32"] < 30
    assert 0 < accuracy["int8"] < 30
    assert "the FP32 network's mIoU on --val is only" in said
    assert "chance" not in said


def test_a_network_without_batch_norm_takes_procedural_images(here: Path) -> None:
    report, said = convert(task_networks.Plain, "--val", str(pictures(here / "val")))
    assert (report["model"]["task"], report["model"]["classes"], report["model"]["bn_layers"]) == (
        "classes",
        7,
        0,
    )
    assert report["model"]["outputs"] == {"logits": [7]}
    assert (report["synthesis"]["source"], report["calibration"]["source"]) == ("procedural", "procedural")
    agreement = report["agreement"]
    assert (agreement["measure"], agreement["synthetic_top1"]) == ("same class", agreement["percent"])
    assert_outputs(agreement, ["logits"])
    assert (report["accuracy"]["metric"], report["accuracy"]["fp32_top1"]) == (None, None)
    assert report["accuracy"]["agreement"] >= 50
    assert report["prediction"]["inputs"] == 64
    assert "calibrated on procedural images: the network has no batch norm" in said
    assert "on real data another class on" in said


def test_a_generator_takes_batch_norms(here: Path) -> None:
    arguments = [*flags_for(task_networks.Plain), *FLAGS, "--samples", "zscgan"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "no batch norm with running statistics" in result.output
    assert "leave --samples out for procedural images" in " ".join(result.output.split())
    assert [path.name for path in here.iterdir()] == ["net.pth"]
