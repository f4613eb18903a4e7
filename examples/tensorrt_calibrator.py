"""ResNet-18 as an INT8 engine of TensorRT 10, calibrated by TensorRT on synthetic samples: no data is needed."""

from pathlib import Path

import tensorrt as trt
import torch
from torchvision.models import ResNet18_Weights, resnet18

from calibrators.data.input_spec import InputSpec
from calibrators.tensorrt import ZSCGANEntropyCalibrator

model = resnet18(weights=ResNet18_Weights.DEFAULT).eval()
spec = InputSpec((3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
image = torch.zeros(2, *spec.shape)
torch.onnx.export(model, (image,), "resnet18.onnx", input_names=["input"], dynamic_shapes=({0: "batch"},))

builder = trt.Builder(logger := trt.Logger())
network, config = builder.create_network(), builder.create_builder_config()
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file("resnet18.onnx"):
    raise SystemExit(parser.get_error(0).desc())

# Leaving the block raises what went wrong in the calibration, which TensorRT only prints.
with ZSCGANEntropyCalibrator(model, spec, cache="resnet18.cache") as calibrator:
    batch = calibrator.get_batch_size()
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *(trt.Dims([size, *spec.shape]) for size in (1, batch, batch)))
    config.add_optimization_profile(profile)
    config.set_calibration_profile(profile)  # calibration takes the middle size
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = calibrator
    plan = builder.build_serialized_network(network, config)
if plan is None:
    raise SystemExit("TensorRT could not build the engine; its log above says why")
Path("resnet18.plan").write_bytes(plan)
