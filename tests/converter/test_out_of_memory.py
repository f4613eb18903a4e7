"""Memory that runs out: what is recognised, what is said, and what is left on the disk."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from calibrators.distributed import RankLostError, Ranks
from calibrators.errors import CalibrationError
from calibrators.zscgan import resume as checkpoint
from calibrators.zscgan import training
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import load_torch
from converter import pipeline
from converter.cli.convert import command
from converter.errors import CaptureError, ConversionError, LoadError
from converter.job import Job
from converter.out_of_memory import memory_error_in, out_of_memory, smaller_batch
from converter.stages import synthesis
from converter.workspace import CHECKPOINT, MARKER, Workspace
from engines.errors import BuildError
from tests.converter.digits import INPUT, MODEL
from tests.converter.jobs import job_of

ROOT = Path(__file__).parents[2]
FLAGS = [
    *MODEL,
    *INPUT,
    "--int8",
    "--gan-steps",
    "4",
    "--gan-batch",
    "20",
    "--calib-samples",
    "64",
    "-o",
    "out",
]
GPU_FULL = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(GPU_FULL),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL Error 1: unhandled cuda error. Last error:\nCuda failure 2 'out of memory'"),
        RuntimeError("std::bad_alloc"),
        RuntimeException("Failed to allocate memory for requested buffer of size 4096"),
    ],
    ids=lambda error: str(error)[:40] or "none",
)
def test_the_words_of_each_library_are_known(error: Exception) -> None:
    assert memory_error_in(error) is error
    wrapped = CaptureError("the network can't be captured")
    wrapped.__cause__ = error
    assert memory_error_in(wrapped) is error


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**50), lambda: np.empty(2**55)],  # more than any machine has
    ids=["torch", "numpy"],
)
def test_what_the_allocators_here_raise_is_known(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert memory_error_in(caught.value) is caught.value


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RankLostError("another process of this run has ended: Connection closed by peer"),
        CalibrationError("the file is called CUDA out of memory.png"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyError("std::bad_alloc"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert memory_error_in(error) is None


@pytest.mark.parametrize(
    ("batch", "world", "smaller"),
    [(64, 1, 32), (65, 1, 32), (3, 1, 2), (2, 1, None), (64, 2, 32), (24, 4, 8), (8, 4, None), (4, 2, None)],
)
def test_the_batch_that_is_advised_fits_the_ranks(batch: int, world: int, smaller: int | None) -> None:
    assert smaller_batch(batch, Ranks(0, world)) == smaller


def told(device: str, stage: str, batch: int = 64, world: int = 1, *, trained: bool = False) -> str:
    """The message for a GPU or a CPU that is full."""
    job = job_of(device=torch.device(device), batch=batch)
    job = replace(job, options=replace(job.options, synthesis=ZSCGANOptions(batch=batch)))
    error = out_of_memory(
        torch.OutOfMemoryError(GPU_FULL), stage, job, job.options, trained=trained, ranks=Ranks(0, world)
    )
    assert isinstance(error, ConversionError)
    return str(error)


def test_the_batch_of_the_training_is_halved_where_that_is_another() -> None:
    """Large inputs without labels are trained in batches of 8 and calibrated in batches of 16."""
    job = job_of(device=torch.device("cpu"), batch=16)
    job = replace(job, options=replace(job.options, synthesis=ZSCGANOptions(batch=8)))
    error = torch.OutOfMemoryError(GPU_FULL)
    for stage, batch, advised in (("synthesis", 8, 4), ("calibration", 16, 8)):
        text = str(out_of_memory(error, stage, job, job.options, trained=False))
        assert f"with a batch of {batch} " in text
        assert f"type --gan-batch {advised}" in text


def test_the_advice_depends_on_the_stage_and_the_device() -> None:
    assert told("cuda", "synthesis") == (
        "out of memory in the stage synthesis, with a batch of 64 on the GPU (asked for 20.00 MiB); type "
        "--gan-batch 32, or --device cpu (slower)"
    )
    assert told("cpu", "calibration", trained=True).endswith(
        "on the CPU (asked for 20.00 MiB); type --gan-batch 32 (the generator is then trained anew)"
    )
    assert told("cuda", "capture").endswith("(asked for 20.00 MiB); type --device cpu (slower)")
    assert told("cpu", "synthesis", 2).endswith("; end other programs, or take a machine with more memory")
    assert told("cpu", "synthesis", world=4).endswith(
        "; type --gan-batch 32, or torchrun --nproc-per-node with less than 4"
    )


def ended_in(stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Result:
    """A conversion of the digits that ``error`` ends in ``stage``, with the model loaded and no work done."""

    def lead(job: Job, command: str, started: float) -> None:
        with Workspace(Path("out")) as workspace:
            if stage == "verify":  # long after the training
                with job.console.stage("synthesis"):
                    workspace.path("generator.pt").write_text("")
            with job.console.stage(stage):
                raise error

    monkeypatch.setattr(pipeline, "lead", lead)
    return CliRunner().invoke(command, [*FLAGS, *flags])


@pytest.mark.parametrize("stage", ["capture", "synthesis", "verify"])
def test_a_stage_ends_with_one_message(stage: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ended_in(stage, torch.OutOfMemoryError(GPU_FULL), monkeypatch)
    assert result.exit_code == 1
    assert result.output.count(f"error: out of memory in the stage {stage}") == 1, result.output
    assert "Traceback" not in result.output
    assert ("--gan-batch 10" in result.output) == (stage != "capture")
    assert ("trained anew" in result.output) == (stage == "verify")
    assert "--device cpu" not in result.output
    assert list(here.iterdir()) == []


def test_a_generator_of_an_earlier_run_is_not_trained_anew(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ended_in("verify", torch.OutOfMemoryError(GPU_FULL), monkeypatch, "--generator", "generator.pt")
    assert "trained anew" not in result.output


def test_a_model_that_is_too_large_to_load(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LoadError("the network's forward failed") from MemoryError("Unable to allocate 3.00 GiB")

    monkeypatch.setattr(pipeline, "job_from_options", full)
    result = CliRunner().invoke(command, FLAGS)
    assert result.exit_code == 1
    assert "error: out of memory on this machine (asked for 3.00 GiB); end other programs" in result.output


def test_a_bug_in_a_stage_stays_a_bug(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    result = ended_in("synthesis", bug, monkeypatch)
    assert result.exception is bug
    assert "out of memory" not in result.output


@pytest.mark.parametrize(
    ("stage", "words"), [("benchmark", "error: the GPU has no room"), ("verify", "error: out of memory")]
)
def test_what_an_engine_says_of_its_own_memory_stands(
    stage: str, words: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = BuildError("the GPU has no room for 64.0 MiB more")
    error.__cause__ = torch.OutOfMemoryError(GPU_FULL)
    result = ended_in(stage, error, monkeypatch)
    assert result.exit_code == 1
    assert words in result.output


@pytest.mark.slow
def test_the_training_so_far_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descend, steps = training.descend, []

    def full_in_the_third(*arguments: Any) -> bool:
        steps.append(0)
        if len(steps) == 3:
            raise torch.OutOfMemoryError(GPU_FULL)
        return descend(*arguments)

    monkeypatch.setattr(synthesis, "checkpointing", partial(checkpoint.checkpointing, every_s=0.0))
    monkeypatch.setattr(training, "descend", full_in_the_third)
    result = CliRunner().invoke(command, FLAGS)
    assert result.exit_code == 1
    assert "out of memory in the stage synthesis, with a batch of 20" in result.output
    assert "run the same command to resume" in result.output
    assert sorted(path.name for path in (here / "out.partial").iterdir()) == [MARKER, CHECKPOINT]
    content = (here / "out.partial" / CHECKPOINT).read_bytes()
    assert load_torch(here / CHECKPOINT, content[hashlib.sha256().digest_size :])["key"]


@pytest.mark.slow
def test_a_process_that_runs_out_says_so(tmp_path: Path) -> None:
    """The allocator's own error: a batch of terabytes, in a process that may have 64 GiB."""
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36)); " + (
        "from converter.cli.convert import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, *FLAGS, "--gan-batch", str(2**40), "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    assert "error: out of memory in the stage synthesis, with a batch of 1099511627776" in process.stderr
    assert f"--gan-batch {2**39}" in process.stderr
    assert "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []
