"""The data loader script of Polygraphy, for samples in calib.npz:

zscgan-samples model.onnx -o calib.npz --normalised
polygraphy convert model.onnx --int8 --data-loader-script polygraphy_data.py -o model.plan
polygraphy run model.onnx --onnxrt --data-loader-script polygraphy_data.py
"""

from collections.abc import Iterator

from calibrators.data.readers import Feed, batches_from_archive, feeds


def load_data() -> Iterator[Feed]:
    """A dictionary a batch: the input's name and its values."""
    name, batches = batches_from_archive("calib.npz", batch_size=8)
    return feeds(batches, name)
