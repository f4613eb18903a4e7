"""On a machine with a GPU: TensorRT's own calibration, fed from both kinds of buffers. Skipped elsewhere."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibrators.data.batches import TensorBatches
from calibrators.data.input_spec import InputSpec
from engines.errors import BuildError, EngineUnavailableError
from engines.memory import open_device
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.options import BuildOptions
from engines.tensorrt.engine import PlanEngine
from tests.engines.networks import Net

pytestmark = pytest.mark.gpu


def float_network(net: Net) -> onnx.ModelProto:
    """A convolution and a classifier without Q/DQ: ``(batch, 3, 8, 8)`` to ``(batch, 5)``."""
    kernel = net.constant(net.rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32))
    weight = net.constant(net.rng.normal(0, 0.4, (5, 8)).astype(np.float32))
    x = net.node("Relu", net.node("Conv", "input", kernel, kernel_shape=[3, 3], pads=[1] * 4))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(net.node("Gemm", x, weight, transB=1))


@pytest.mark.parametrize("buffers", ["pycuda", "torch"])
def test_tensorrt_calibrates_and_reads_its_cache_again(tmp_path: Path, buffers: str) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    from calibrators.tensorrt.calibrator import ZSCGANEntropyCalibrator
    from engines.tensorrt.library import engine_from_onnx, require_calibrators

    net, source, cache = Net(), tmp_path / "net.onnx", tmp_path / "net.cache"
    onnx.save(float_network(net), source)
    images = TensorBatches(torch.from_numpy(net.images(32)), torch.zeros(32, dtype=torch.int64), 8)
    try:
        require_calibrators()
        device = open_device(buffers)
    except (BuildError, EngineUnavailableError) as error:
        pytest.skip(str(error))
    batches: list[int] = []
    with device:
        for _ in range(2):
            with ZSCGANEntropyCalibrator(
                None, InputSpec((3, 8, 8), (0.5,), (0.25,)), batches=images, batch_size=8, cache=cache,
                fingerprint="net", memory=device, on_progress=lambda _phase, step, _steps: batches.append(step),
            ) as calibrator:  # fmt: skip
                plan = engine_from_onnx(
                    source, tmp_path / "net.plan", BuildOptions(max_batch=8), calibrator=calibrator
                )
            assert batches == [1, 2, 3, 4]  # none for the second build, which has the cache
            assert cache.read_bytes().startswith(b"TRT-10")
        x = net.images(8)
        with PlanEngine(plan, device=device) as engine, OnnxRuntimeEngine(source, threads=1) as reference:
            expected = reference.run(x)
            np.testing.assert_allclose(engine.run(x), expected, atol=0.1 * np.abs(expected).max())
