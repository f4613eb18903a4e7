"""Two processes against one. They run once, in the fixture ``pair``."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from calibrators.distributed import SINGLE
from tests.converter.qat import double, ranked

ROOT = Path(__file__).parents[3]
LONGEST_S = 240


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the two ranks, none of which outlives this."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.converter.qat.ranked", str(rank), "2", str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=LONGEST_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_two_halves_give_the_loss_and_the_gradients_of_the_whole(
    pair: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch)
    alone = ranked.first_step(SINGLE)
    assert any(name.endswith("log_ratio") for name in alone["gradients"])
    for results in pair:
        torch.testing.assert_close(results["first step"]["loss"], alone["loss"], rtol=1e-5, atol=0)
        for name, gradient in alone["gradients"].items():
            scale = float(gradient.abs().max())
            assert scale > 0
            found = results["first step"]["gradients"][name]
            torch.testing.assert_close(found, gradient, rtol=0, atol=1e-4 * scale)


def test_a_whole_run_gives_the_result_of_one_process(
    pair: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch)
    alone = ranked.whole_run(SINGLE)
    for results in pair:
        ours = results["whole run"]
        torch.testing.assert_close(
            torch.tensor(ours["losses"]), torch.tensor(alone["losses"]), rtol=2e-2, atol=0
        )
        assert ours["scores"].keys() == alone["scores"].keys()
        for name, value in alone["learned"].items():
            torch.testing.assert_close(
                ours["learned"][name], value, rtol=0.02, atol=0.02 * float(value.abs().max())
            )


def test_all_ranks_have_the_same_bits(pair: list[dict[str, Any]]) -> None:
    one, other = (results["whole run"] for results in pair)
    assert one["losses"] == other["losses"]
    assert one["scores"] == other["scores"]
    assert all(torch.equal(value, other["learned"][name]) for name, value in one["learned"].items())
