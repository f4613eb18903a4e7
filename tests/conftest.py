"""Shared test set-up: one thread, as there is a process for each core; GPU tests only where there is one."""

import functools
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before OpenMP is loaded, here and in the children: waiting threads would take the cores of the other processes.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

# Containers often switch it off, and to compile all modules takes as long as to import them, in each process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# An export makes millions of small objects beside those of the imports: a fifth of it went into collections.
gc.set_threshold(20_000, 10, 10)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEAR_FIXTURES = {"convert", "conversion", "converted", "pair", "stopped", "taken"}
"""Whole conversions, and other processes that have to import PyTorch; who asks for one is slow."""

DEAR_FILES = (
    "load/test_torch_export.py",
    "load/test_onnx_file.py",
    "load/test_onnx_files.py",
    "twin/test_networks.py",
    "twin/test_operators.py",
)
"""Files of slow tests that don't say so themselves."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files of slow tests alone unread in a run of the others."""
    if config.getoption("markexpr") != "not slow" or collection_path.suffix != ".py":
        return None
    says_so = re.search(
        r"^pytestmark = \[?pytest\.mark\.slow", collection_path.read_text("utf-8"), re.MULTILINE
    )
    return True if says_so or str(collection_path).endswith(DEAR_FILES) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take long, and skip tests marked gpu, with the reason, where no GPU answers.

    A run of the GPU tests alone is refused there: whoever asks for them wants to know that they pass, not that all of
    them were skipped.
    """
    for item in items:
        asks = isinstance(item, pytest.Function) and DEAR_FIXTURES & set(item.fixturenames)
        if asks or str(item.path).endswith(DEAR_FILES):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)

    from engines.gpu import gpus  # not above: the checks of signatures come before the first import

    number, reason = gpus()
    if number > 0:
        return
    if config.getoption("markexpr") == "gpu":
        raise pytest.UsageError(f"expected an NVIDIA GPU for pytest -m gpu, but {reason}")
    skip = pytest.mark.skip(reason=f"needs an NVIDIA GPU, but {reason}")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


def seed_pytorch() -> None:
    """The same random weights and inputs in every run, whichever tests ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed what fixtures draw."""
    seed_pytorch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Seed what the test itself draws, whether or not its shared fixtures had to be made first."""
    seed_pytorch()


@pytest.fixture(autouse=True, scope="session")
def exporter_tables() -> Iterator[None]:
    """PyTorch's ONNX exporter with its tables kept from one network to the next.

    It parses the source of some 500 functions for each network, which takes as long as all else about a small one.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        registry = functools.cache(ONNXRegistry.from_torchlib.__func__)  # type: ignore[attr-defined]
        patch.setattr(ONNXRegistry, "from_torchlib", classmethod(registry))
        patch.setattr(utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops))
        yield
