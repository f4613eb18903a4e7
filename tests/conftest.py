"""Shared test set-up: few threads, so that a run on a small machine is steady; GPU tests only where there is one."""

import functools
import os
import signal
from collections.abc import Iterator

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command does, before OpenMP is loaded

import pytest
import torch

torch.set_num_threads(2)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked gpu, with the reason, where no GPU answers; refuse a run of these alone there.

    Whoever asks for the GPU tests wants to know that they pass, not that all of them were skipped.
    """
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
