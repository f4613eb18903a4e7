"""Room on the GPU for TensorRT's builder."""

import gc

import torch


def release_gpu_memory() -> None:
    """Give the GPU back what PyTorch keeps of freed tensors, for tensors to come.

    TensorRT's builder tries kernels in the memory that is free, and leaves out those that it has no room for. Nothing
    happens where this process doesn't use CUDA.
    """
    if torch.cuda.is_initialized():
        gc.collect()  # modules and traced graphs refer to themselves
        torch.cuda.empty_cache()
