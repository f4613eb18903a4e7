"""NNCF's post-training quantization for OpenVINO: python nncf_openvino.py model.onnx calib.npz model.int8.xml

Make the samples with: zscgan-samples model.onnx -o calib.npz --normalised
"""

import sys

import nncf
import openvino

from calibrators.data.readers import batches_from_archive, nncf_dataset

model, archive, output = sys.argv[1:]
name, batches = batches_from_archive(archive, batch_size=1)
quantized = nncf.quantize(
    openvino.Core().read_model(model), nncf_dataset(batches, name), subset_size=batches.num_samples
)
openvino.save_model(quantized, output)
print(f"{output}: INT8, calibrated with {batches.num_samples} samples")
