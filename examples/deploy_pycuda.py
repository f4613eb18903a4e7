"""The likeliest classes of an image, by the TensorRT plan of a conversion: TensorRT, PyCUDA, NumPy and Pillow.

    python deploy_pycuda.py resnet18_int8 cat.jpg

Nothing of zscgan-convert is needed, nor PyTorch. The folder is that of a conversion; of it this script reads
``model.tensorrt.plan`` and ``report.json``.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from numpy.typing import NDArray
from PIL import Image

LIKELIEST = 5
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream doesn't wait for the default one; PyCUDA has no name for it."""
LOGGER = trt.Logger()
"""Prints warnings and errors. It has to live as long as anything of TensorRT does."""


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


@contextmanager
def primary_context() -> Iterator[None]:
    """Makes the first GPU's primary context current, in which TensorRT works too."""
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield
    finally:
        cuda.Context.pop()
        context.detach()


def logits_from_plan(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (batch, classes) that the plan gives for ``x``; all that it takes ends before this returns."""
    runtime = trt.Runtime(LOGGER)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise SystemExit(f"TensorRT {trt.__version__} can't read {path}; its log above says why")
    logits = logits_from_engine(engine, x)
    del engine  # before its runtime
    return logits


def logits_from_engine(engine: trt.ICudaEngine, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (batch, classes) of ``x`` (batch, channels, height, width).

    Both are float32, in a plan that was built with ``--fp16`` too. A server keeps context, stream and memory from
    one call to the next; here they end with the call.
    """
    context, stream = engine.create_execution_context(), cuda.Stream(NON_BLOCKING)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    source, target = sorted(names, key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    if not context.set_input_shape(source, x.shape):
        raise SystemExit(f"the plan takes no input of {x.shape}; its log above says why")
    shape = context.get_tensor_shape(target)
    # Page-locked memory: the copies run without the CPU.
    given = cuda.pagelocked_empty(x.shape, np.float32)
    logits = cuda.pagelocked_empty(tuple(shape[axis] for axis in range(len(shape))), np.float32)
    memory = {source: cuda.mem_alloc(given.nbytes), target: cuda.mem_alloc(logits.nbytes)}
    for name, allocation in memory.items():
        context.set_tensor_address(name, int(allocation))
    given[...] = x
    cuda.memcpy_htod_async(int(memory[source]), given, stream)
    if not context.execute_async_v3(stream.handle):
        raise SystemExit("TensorRT could not run the plan; its log above says why")
    cuda.memcpy_dtoh_async(logits, int(memory[target]), stream)
    stream.synchronize()
    for allocation in memory.values():
        allocation.free()
    return np.array(logits)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax of one row of logits."""
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def main(folder: Path, image: Path) -> None:
    x = input_from_image(image, json.loads((folder / "report.json").read_text(encoding="utf-8")))
    with primary_context():
        chances = probabilities(logits_from_plan(folder / "model.tensorrt.plan", x)[0])
    for index in chances.argsort()[::-1][:LIKELIEST]:
        print(f"class {index:4d}  {100 * chances[index]:6.2f} %")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
