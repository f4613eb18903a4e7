"""The likeliest classes of an image, by the INT8 engine of a conversion on a CPU: ONNX Runtime, NumPy and Pillow.

    python deploy_onnxruntime.py resnet18_int8 cat.jpg

Nothing of zscgan-convert is needed, nor PyTorch. The folder is that of a conversion; of it this script reads
``model.onnxruntime.onnx`` and ``report.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

LIKELIEST = 5


def input_from_image(path: Path, report: dict[str, Any]) -> NDArray[np.float32]:
    """The image as the network's input (1, channels, height, width), prepared as the conversion's report says."""
    spec, sizes = report["model"]["input"], report["options"]["images"]
    channels, height, width = spec["shape"]
    image = Image.open(path).convert("RGB" if channels == 3 else "L")
    if isinstance(sizes["resize"], list):  # height and width
        image = image.resize(tuple(sizes["resize"][::-1]), Image.Resampling.BILINEAR)
    elif sizes["resize"]:  # the shorter side
        longer = sizes["resize"] * max(image.size) // min(image.size)
        size = (sizes["resize"], longer) if image.width <= image.height else (longer, sizes["resize"])
        image = image.resize(size, Image.Resampling.BILINEAR)
    if sizes["crop"] and min(image.size) >= sizes["crop"]:  # the centre
        left, top = (round((side - sizes["crop"]) / 2) for side in image.size)
        image = image.crop((left, top, left + sizes["crop"], top + sizes["crop"]))
    if image.size != (width, height):
        raise SystemExit(f"expected an image of {height}x{width}, got {image.height}x{image.width}: {path}")
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    if spec["channel_order"] == "bgr":
        pixels = pixels[:, :, ::-1]
    normalised = (pixels - np.float32(spec["mean"])) / np.float32(spec["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])


def session_from_file(path: Path) -> ort.InferenceSession:
    """The engine, loaded as the conversion loaded it when it compared INT8 with FP32."""
    options = ort.SessionOptions()
    # ONNX Runtime would else fuse Q/DQ pairs that are left, and round where the network does not.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax of one row of logits."""
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def main(folder: Path, image: Path) -> None:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    session = session_from_file(folder / "model.onnxruntime.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: input_from_image(image, report)})
    chances = probabilities(logits[0])
    for index in chances.argsort()[::-1][:LIKELIEST]:
        print(f"class {index:4d}  {100 * chances[index]:6.2f} %")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
