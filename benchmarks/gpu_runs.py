"""The checks of ``gpu_check.py`` that run the command: stopped, out of memory, by more ranks than there are GPUs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_checks import DIGITS, Found, is_small

ROOT = Path(__file__).parents[1]
ROOM_MIB = 512
"""What the process that is to run out of GPU memory may have."""
MOST_LOST = 2.0
"""Percent points of top-1 that INT8 may lose on the digits."""

# The command with a quick benchmark, a checkpoint after each step and what PRELUDE says.
SCRIPT = """
import functools, os
import torch
from calibrators.zscgan import resume as checkpoint
from converter.stages import benchmark as measure
from converter.stages import synthesis
from converter.cli.convert import main
from engines.options import BenchOptions
measure.BenchOptions = functools.partial(BenchOptions, warmup_ms=0.0, duration_s=0.05)
synthesis.checkpointing = functools.partial(checkpoint.checkpointing, every_s=0.0)
exec(os.environ.get("PRELUDE", ""))
main()
"""
LITTLE_GPU = f"""
torch.cuda.set_per_process_memory_fraction({ROOM_MIB << 20} / torch.cuda.get_device_properties(0).total_memory)
"""
LITTLE_MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))"


def flags(setting: dict[str, Any], *more: str) -> list[str]:
    """The digits' conversion into the folder ``out``."""
    model = [str(DIGITS / "digits.pth"), "--arch", f"{DIGITS / 'model.py'}:digits_resnet", "--int8"]
    inputs = ["--input-shape", "1x8x8", "--mean", "0.305", "--std", "0.376", "--engine", "onnxruntime"]
    steps = ["--gan-steps", "16" if is_small(setting) else "120", "--calib-samples", "256", "-o", "out"]
    return [*model, *inputs, *steps, "--device", setting["device"], *more]


def started(folder: Path, arguments: list[str], prelude: str = "") -> "subprocess.Popen[str]":
    """Python with these arguments in ``folder``, where it finds this source tree."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PRELUDE": prelude},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", setting: dict[str, Any]) -> tuple[int, str]:
    """The exit code and what was said; a process that goes on for too long is killed."""
    try:
        _, said = process.communicate(timeout=setting["timeout_s"])
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
    return process.returncode, said


def converted(folder: Path, setting: dict[str, Any], *more: str) -> dict[str, Any]:
    """The report of a whole conversion. Raises RuntimeError with what was said where there is none."""
    code, said = ended(started(folder, ["-c", SCRIPT, *flags(setting, *more)]), setting)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {said.strip()[-2000:]}")
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return report


def accuracy(report: dict[str, Any]) -> dict[str, float]:
    """Top-1 of both networks and how often they agree, in percent."""
    return {name: report["accuracy"][name] for name in ("fp32_top1", "int8_top1", "agreement")}


def lost(found: dict[str, float]) -> list[str]:
    """What is wrong with these accuracies."""
    drop = found["fp32_top1"] - found["int8_top1"]
    return [f"INT8 loses {drop:.1f} points of top-1"] if drop > MOST_LOST else []


def conversion(setting: dict[str, Any]) -> Found:
    """The digits twice: in one go, and stopped by SIGINT in the training and then resumed."""
    val = ("--val", str(DIGITS / "test.npz"))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = accuracy(converted(Path(one), setting, *val))
        process = started(Path(two), ["-c", SCRIPT, *flags(setting, *val)])
        checkpoint, deadline = (
            Path(two) / "out.partial" / "training.ckpt",
            time.monotonic() + setting["timeout_s"],
        )
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        code, said = ended(process, setting)
        wrong = [] if code == 130 else [f"stopped with exit code {code}: {said.strip()[-500:]}"]
        if not checkpoint.exists():
            wrong.append("no checkpoint was kept")
        resumed = accuracy(converted(Path(two), setting, *val))
        models = [(Path(folder) / "out" / "model.int8.onnx").read_bytes() for folder in (one, two)]
    if not is_small(setting):  # so few steps as there give poor samples
        wrong += [*lost(whole), *lost(resumed)]
    figures = {"whole": whole, "resumed": resumed, "same_int8_model": models[0] == models[1]}
    return {"figures": figures, "wrong": wrong}


def qat(setting: dict[str, Any]) -> Found:
    """Fine-tuning with ModelOpt's quantizers."""
    with tempfile.TemporaryDirectory() as folder:
        steps = "2" if is_small(setting) else "40"
        report = converted(Path(folder), setting, "--qat", "--qat-steps", steps)
    figures = {name: report["qat"][name] for name in ("steps", "seconds", "kept", "agreement", "parity")}
    return {"figures": figures, "wrong": []}


def out_of_memory(setting: dict[str, Any]) -> Found:
    """Memory that runs out on purpose: one message that says what to type, exit code 1, nothing left."""
    batch, prelude = (2**40, LITTLE_MEMORY) if is_small(setting) else (2**17, LITTLE_GPU)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-c", SCRIPT, *flags(setting, "--gan-batch", str(batch))]
        code, said = ended(started(Path(folder), arguments, prelude), setting)
        left = [path.name for path in Path(folder).iterdir()]
    expected = ["error: out of memory in the stage synthesis", f"--gan-batch {batch // 2}"]
    if not is_small(setting):
        expected.append("--device cpu")
    wrong = [f"not said: {text}" for text in expected if text not in said]
    wrong += [f"exit code {code}"] * (code != 1) + [f"left: {name}" for name in left]
    wrong += ["a traceback was printed"] * ("Traceback" in said)
    return {"figures": {"said": said.strip().splitlines()[-1:]}, "wrong": wrong}


def two_ranks(setting: dict[str, Any]) -> Found:
    """Two processes of torchrun on one GPU: refused in words."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "converter"]
    with tempfile.TemporaryDirectory() as folder:
        code, said = ended(started(Path(folder), [*torchrun, *flags(setting)]), setting)
    message = "expected a GPU for each of the 2 processes on this machine, but there are 1"
    wrong = [] if said.count(message) == 1 else [f"not said once: {message}"]
    return {"figures": {"exit_code": code}, "wrong": wrong + ["exit code 0"] * (code == 0)}
