"""Independent references: NVIDIA's calibrator itself, and the entropy scheme written as it is defined."""

import inspect
import warnings
from types import ModuleType

import numpy as np


def modelopt_histogram() -> ModuleType:
    """ModelOpt's module of histogram calibrators, its quantizer called as its signature wants it.

    ModelOpt 0.47 passes the number of bits in the place of ``bias`` (which came later), so that its "mse" is
    none. SciPy's entropy is without the decorator for NaN and axes, which takes longer than the entropy.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of optional packages
        import modelopt.torch.quantization.calib.histogram as module
        from modelopt.torch.quantization.tensor_quant import fake_tensor_quant

    module.fake_tensor_quant = lambda x, amax, bits, unsigned: fake_tensor_quant(
        x, amax, None, bits, unsigned
    )
    module.entropy = inspect.unwrap(module.entropy)
    return module


def theirs_amax(counts: np.ndarray, method: str, **options: float) -> float:
    """``HistogramCalibrator.compute_amax`` on a histogram with bins of width 1."""
    calibrator = modelopt_histogram().HistogramCalibrator(num_bits=8, unsigned=False, torch_hist=False)
    calibrator._calib_hist = counts.astype(np.int64)
    calibrator._calib_bin_edges = np.arange(len(counts) + 1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(calibrator.compute_amax(method, **options))


def reference_divergence(counts: np.ndarray, size: int) -> float:
    """KL of the candidate of ``size`` bins, written as it is defined."""
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    p = bins[:size].copy()
    p[-1] += bins[size:].sum()
    q = np.zeros(size)
    levels = np.arange(size) * 128 // size
    for level in range(128):
        members = np.flatnonzero((levels == level) & (bins[:size] > 0))
        if len(members):
            q[members] = bins[members].sum() / len(members)
    p, q = p / p.sum(), q / q.sum()
    filled = p > 0
    if np.any(q[filled] == 0):
        return np.inf
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
