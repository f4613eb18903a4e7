"""ModelOpt's ONNX PTQ with samples of zscgan-samples: python modelopt_ptq.py model.onnx calib.npz model.int8.onnx

Make them with: zscgan-samples model.onnx -o calib.npz --normalised
Without Python: python -m modelopt.onnx.quantization --onnx_path model.onnx --calibration_data_path calib.npz
"""

import sys

from modelopt.onnx.quantization import quantize

from calibrators.data.readers import CalibrationReader, batches_from_archive

model, archive, output = sys.argv[1:]
name, batches = batches_from_archive(archive, batch_size=1)
quantize(
    model,
    quantize_mode="int8",
    calibration_method="entropy",
    calibration_data_reader=CalibrationReader(batches, name),
    calibration_eps=["cpu"],
    output_path=output,
)
print(f"{output}: INT8, calibrated with {batches.num_samples} samples")
