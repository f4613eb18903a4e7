"""Shared test set-up: few threads, so that a run on a small machine is steady; GPU tests only where there is one."""

import os
import signal

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
