"""TensorRT 10's INT8 calibrators, fed with synthetic samples or with any other batches; and its cache file."""

from calibrators.tensorrt.calibrator import ZSCGANEntropyCalibrator, ZSCGANMinMaxCalibrator

__all__ = ["ZSCGANEntropyCalibrator", "ZSCGANMinMaxCalibrator"]
