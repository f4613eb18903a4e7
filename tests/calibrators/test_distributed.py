"""Two processes against one. They run once, in the fixture ``pair``."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from calibrators.distributed import SINGLE, Ranks, parts_with_gradient
from calibrators.zscgan.training import require_even_shares
from tests.calibrators import ranked

ROOT = Path(__file__).parents[2]
LONGEST_S = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks meet, with a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "two").mkdir()
    ranked.stopped(SINGLE, folder)
    return folder


@contextmanager
def started(world: int, folder: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """``world`` processes of ``ranked``, of which none outlives the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.calibrators.ranked", str(rank), str(world), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[str, Any]]:
    """The results of the two ranks."""
    with started(2, folder) as processes:
        said = [process.communicate(timeout=LONGEST_S)[0] for process in processes]
        codes = [process.returncode for process in processes]
    assert codes == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_same_training(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Equal up to rounding in float64, weights and running statistics and optimizer and all, of each generator."""
    assert len(ours["members"]) == len(theirs["members"]) == 2
    for one, other in zip(ours["members"], theirs["members"], strict=True):
        assert len(one["history"]) == len(other["history"]) == ranked.OPTIONS.steps
        torch.testing.assert_close(
            torch.tensor(one["history"]), torch.tensor(other["history"]), rtol=1e-6, atol=0
        )
        for part in ("generator", "optimizer", "moving"):
            torch.testing.assert_close(one[part], other[part], rtol=1e-5, atol=1e-8)


def test_messages_by_hand(pair: list[dict[str, Any]]) -> None:
    for rank, results in enumerate(pair):
        ours = results["messages"]
        assert ours["parts"].tolist() == [[[0.0, 7.0]], [[1.0, 7.0]]]
        assert ours["mean"].tolist() == [1.0]
        assert ours["any"] == [False, True, True]
        assert ours["gathered"] == [{"rank": 0, "x": torch.tensor(0)}, {"rank": 1, "x": torch.tensor(1)}]
        assert ours["from_first"] == "rank 0"
        assert ours["share"].tolist() == [[0, 1], [2, 3]][rank]


def test_a_process_alone_gives_back_what_it_got() -> None:
    ours = ranked.messages(SINGLE)
    assert ours["parts"].tolist() == [[[0.0, 7.0]]]
    assert ours["mean"].tolist() == [0.0]
    assert ours["any"] == [False, False, True]
    assert ours["gathered"] == [{"rank": 0, "x": torch.tensor(0)}]
    assert ours["share"].tolist() == [0, 1, 2, 3]
    SINGLE.leave()


def test_the_gradient_of_parts_of_one_process() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (parts_with_gradient(x, SINGLE) ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("first step", torch.float64, 1e-10), ("first step in float32", torch.float32, 2e-3)],
)
def test_two_halves_give_the_loss_and_the_gradients_of_the_whole(
    pair: list[dict[str, Any]], name: str, dtype: torch.dtype, tolerance: float
) -> None:
    alone = ranked.first_step(SINGLE, dtype)
    assert all(gradient.abs().max() > 0 for gradient in alone["gradients"].values())
    for results in pair:
        torch.testing.assert_close(
            torch.tensor(results[name]["history"]), torch.tensor(alone["history"]), rtol=1e-6, atol=0
        )
        for weight, gradient in alone["gradients"].items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                results[name]["gradients"][weight], gradient, rtol=0, atol=tolerance * scale
            )


def test_a_whole_run_gives_the_state_of_one_process(pair: list[dict[str, Any]]) -> None:
    alone = ranked.whole_run(SINGLE)
    for member in alone["members"]:
        assert member["history"][-1][1] < member["history"][0][1] / 2
    for results in pair:
        assert_same_training(results["whole run"], alone)


def test_all_ranks_have_the_same_bits(pair: list[dict[str, Any]]) -> None:
    for run in ("whole run", "resumed", "with a broken step"):
        members = (results[run].get("members", [results[run]]) for results in pair)
        for one, other in zip(*members, strict=True):
            ours, theirs = one["generator"], other["generator"]
            assert all(torch.equal(ours[name], theirs[name]) for name in ours), run


def test_two_processes_go_on_where_one_stopped(pair: list[dict[str, Any]]) -> None:
    for results in pair:
        assert_same_training(results["resumed"], results["whole run"])


def test_one_process_goes_on_where_two_stopped(pair: list[dict[str, Any]], folder: Path) -> None:
    assert_same_training(ranked.resumed(SINGLE, folder / "two"), pair[0]["whole run"])


def test_a_step_that_is_broken_on_one_rank_is_skipped_on_all(pair: list[dict[str, Any]]) -> None:
    for results in pair:
        state = results["with a broken step"]
        broken = [step for step, _, label in state["history"] if math.isnan(label)]
        assert broken == [ranked.BROKEN_STEP]
        assert {int(entry["step"]) for entry in state["optimizer"]["state"].values()} == {
            ranked.OPTIONS.steps - 1
        }


def test_a_loss_that_stays_broken_ends_all_ranks(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["never finite"] == pair[1]["never finite"]
    assert "--calib-data" in pair[0]["never finite"]


def test_ranges_are_those_of_one_process_to_the_bit(pair: list[dict[str, Any]]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have: more of them may add up in another order
    alone = ranked.ranges(SINGLE)
    torch.set_num_threads(threads)
    assert pair[0]["ranges"] == pair[1]["ranges"] == alone


def test_no_inputs_are_an_error_on_all_ranks(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["no inputs"] == pair[1]["no inputs"] == ranked.no_inputs(SINGLE)


def test_a_rank_that_is_left_behind_does_not_wait(pair: list[dict[str, Any]]) -> None:
    assert all(results["left behind"] for results in pair)


@pytest.mark.parametrize(("batch", "world", "instead"), [(64, 3, 66), (16, 16, 32), (7, 2, 8)])
def test_a_batch_that_cannot_be_shared_is_refused(batch: int, world: int, instead: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of {2 * world}.*--gan-batch {instead}$"):
        require_even_shares(batch, Ranks(0, world))


@pytest.mark.parametrize(("batch", "world"), [(64, 1), (7, 1), (64, 2), (16, 8)])
def test_a_batch_that_can_be_shared(batch: int, world: int) -> None:
    require_even_shares(batch, Ranks(0, world))
