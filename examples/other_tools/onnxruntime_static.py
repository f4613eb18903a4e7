"""ONNX Runtime's static quantization: python onnxruntime_static.py model.onnx calib.npz model.int8.onnx

Make the samples with: zscgan-samples model.onnx -o calib.npz --normalised
"""

import sys

from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static

from calibrators.data.readers import CalibrationReader, batches_from_archive

model, archive, output = sys.argv[1:]
name, batches = batches_from_archive(archive, batch_size=16)
quantize_static(
    model,
    output,
    CalibrationReader(batches, name),
    quant_format=QuantFormat.QDQ,
    per_channel=True,
    calibrate_method=CalibrationMethod.MinMax,
)
print(f"{output}: INT8, calibrated with {batches.num_samples} samples")
