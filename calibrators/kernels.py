"""Which kernels PyTorch may take on a GPU: those that give the same bits every time, or the fastest ones.

On a CPU both make no difference.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda, cudnn


@contextmanager
def exact_kernels() -> Iterator[None]:
    """FP32 as it is and the same kernels every time: for what is compared, and for ranges and files.

    TF32 rounds factors to 10 bits, more than an FP32 network may differ from its ONNX model by.
    """
    with _kernels(exact=True):
        yield


@contextmanager
def fast_kernels() -> Iterator[None]:
    """TF32 on tensor cores, and whichever kernels cuDNN finds to be the fastest: for training.

    These may add in another order in the next run, so that two trainings differ by rounding.
    """
    with _kernels(exact=False):
        yield


@contextmanager
def _kernels(*, exact: bool) -> Iterator[None]:
    # By the older names: torch.export reads these, and raises where only the newer ones (fp32_precision) were set.
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        _set(not exact, not exact, exact, not exact)
        yield
    finally:
        _set(*before)


def _set(convolutions: bool, products: bool, deterministic: bool, benchmark: bool) -> None:
    """TF32 for convolutions and for matrix products, and how cuDNN chooses its kernels."""
    cudnn.allow_tf32, cuda.matmul.allow_tf32 = convolutions, products
    cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
