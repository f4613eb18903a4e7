"""Out of memory: how it is recognised in what libraries raise, and what the user is told."""

import errno
import re

import torch

from calibrators.distributed import SINGLE, Ranks
from calibrators.zscgan.options import MIN_BATCH
from converter.errors import ConversionError
from converter.graph.export_errors import causes_of
from converter.job import Job
from converter.options import ConvertOptions

BATCHED = frozenset({"baseline", "synthesis", "calibration", "qat", "sensitivity", "mixed", "verify"})
"""Stages whose memory grows with ``--gan-batch``."""

_ALLOCATION_FAILED = re.compile(
    r"can't allocate memory|not enough memory: you tried|CUDA out of memory|CUDA error: out of memory"
    r"|(CUBLAS|CUDNN|CUSOLVER)\w*_ALLOC(ATION)?_FAILED|std::bad_alloc|bad allocation"
    r"|Failed to allocate memory|Cuda failure (2 )?'out of memory'"
)
"""PyTorch's allocators, cuBLAS and cuDNN, C++, ONNX Runtime and NCCL, in this order."""
_AMOUNT = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)|[Uu]nable to allocate ([\d.]+ \w+)")


def memory_error_in(error: BaseException) -> BaseException | None:
    """The error in the chain of causes of ``error`` that says that memory ran out, if there is one."""
    for seen in causes_of(error):
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return seen
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return seen
        # Of the package's own errors only the cause counts: their text may quote anything.
        library = isinstance(seen, RuntimeError) or type(seen).__module__.startswith("onnxruntime")
        if library and _ALLOCATION_FAILED.search(str(seen)):
            return seen
    return None


def smaller_batch(batch: int, ranks: Ranks = SINGLE) -> int | None:
    """About half of ``batch``, as ``--gan-batch`` takes it and ``ranks`` can share it; None at the smallest."""
    step = 2 * ranks.world if ranks.world > 1 else 1
    half = max(step, MIN_BATCH, batch // 2 // step * step)
    return half if half < batch else None


def out_of_memory(
    error: BaseException,
    stage: str | None,
    job: Job | None,
    options: ConvertOptions,
    *,
    trained: bool,
    ranks: Ranks = SINGLE,
) -> ConversionError:
    """What to tell the user of ``error``, which ``memory_error_in`` found in ``stage``.

    ``job`` is None where the inputs were not all read. ``trained`` says that a training of this run would be lost by
    another batch.
    """
    where = f" in the stage {stage}" if stage else ""
    device = job.device.type if job else options.device
    advice = []
    if job is not None and (stage in BATCHED or (stage == "engine" and options.implicit)):
        batch = training_batch(job) if stage == "synthesis" else job.batch
        where += f", with a batch of {batch}"
        if half := smaller_batch(batch, ranks):
            anew = " (the generator is then trained anew)" if trained else ""
            advice.append(f"--gan-batch {half}{anew}")
    if device == "cuda":
        advice.append("--device cpu (slower)")
    if ranks.world > 1:
        advice.append(f"torchrun --nproc-per-node with less than {ranks.world}")
    typed = (
        f"type {', or '.join(advice)}" if advice else "end other programs, or take a machine with more memory"
    )
    return ConversionError(f"out of memory{where} on {_place(device)}{_amount(error)}; {typed}")


def training_batch(job: Job) -> int:
    """Samples of a step of the generator's training."""
    return job.options.synthesis.batch_for(*job.teacher.spec.shape[1:])


def _place(device: str) -> str:
    return {"cuda": "the GPU", "cpu": "the CPU"}.get(device, "this machine")


def _amount(error: BaseException) -> str:
    """How much was asked for in vain, where the error says so."""
    text = str(memory_error_in(error))
    if plain := re.search(r"you tried to allocate (\d+) bytes", text):
        return f" (asked for {int(plain[1]) / 2**20:.1f} MiB)"
    found = _AMOUNT.search(text)
    return f" (asked for {found[1] or found[2]})" if found else ""
