"""One conversion by two processes of torchrun, and the parts of it that need none."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import distributed

from calibrators import distributed as calibrators_distributed
from calibrators.distributed import SINGLE, RankLostError, Ranks
from calibrators.errors import CalibrationError
from converter import pipeline
from converter.cli.convert import command
from converter.errors import ConversionError, OptionsError
from converter.torchrun import ranks as module
from converter.torchrun.ranks import (
    FailureChannel,
    decode_error,
    encode_error,
    launched,
    muted_unless_first,
    ranks_of_this_run,
    take_gpu,
)
from converter.workspace import CHECKPOINT, MARKER
from engines.errors import BuildError
from tests.converter.digits import INPUT, MODEL

ROOT = Path(__file__).parents[3]
FLAGS = [*MODEL, *INPUT, "--int8", "--gan-steps", "20", "--calib-samples", "200"]
LONGEST_S = 240

# As converter/__main__.py, with a quick benchmark, a checkpoint at each step, and what SABOTAGE says.
SCRIPT = """
import functools, os
from converter.torchrun.ranks import muted_unless_first
with muted_unless_first():
    import torch
    from calibrators.zscgan import resume as checkpoint
    from converter import pipeline
    from converter.stages import benchmark as measure
    from converter.stages import synthesis
    from converter.cli.convert import main
    from engines.options import BenchOptions
    measure.BenchOptions = functools.partial(BenchOptions, warmup_ms=0.0, duration_s=0.01)
    synthesis.checkpointing = functools.partial(checkpoint.checkpointing, every_s=0)
    exec(os.environ.get("SABOTAGE", ""))
    main()
"""


@contextmanager
def torchrun(folder: Path, *flags: str, sabotage: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Two ranks of the command in ``folder``; neither they nor torchrun outlive the block."""
    script = folder / "command.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            script,
            *FLAGS,
            *flags,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SABOTAGE": sabotage},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:  # torchrun ends its processes, each of which is in a session of its own
            process.terminate()
        process.communicate(timeout=LONGEST_S)


@pytest.mark.slow
def test_an_interrupted_run_of_two_goes_on_to_the_result_of_one(tmp_path: Path) -> None:
    checkpoint = tmp_path / "out.partial" / "training.ckpt"
    with torchrun(tmp_path, "-o", "out") as process:
        deadline = time.monotonic() + LONGEST_S
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LONGEST_S)
    assert process.returncode != 0
    assert said.count("interrupted\n") == 1, said
    assert said.count("run the same command to resume") == 1
    assert checkpoint.exists()
    assert not (tmp_path / "out").exists()

    with torchrun(tmp_path, "-o", "out", "--json") as process:
        printed, said = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, said
    assert said.count("going on from step") == said.count("PASSED") == 1
    report = json.loads(printed)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["device"]["ranks"] == 2
    assert report["synthesis"]["generators"] == 1
    assert [entry["step"] for entry in report["synthesis"]["history"]] == list(range(20))
    assert report["calibration"]["samples"] == 200
    assert report["synthesis"]["procedural"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command.py", "out"]


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank_ends_both_with_one_message(tmp_path: Path) -> None:
    sabotage = """if os.environ["RANK"] == "1":
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
    pipeline.measure_ranges = full"""
    with torchrun(tmp_path, "--gan-steps", "2", "-o", "out", sabotage=sabotage) as process:
        _, said = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 1
    message = (
        "error: out of memory in the stage calibration, with a batch of 64 on the CPU (asked for 1.00 GiB); type "
        "--gan-batch 32 (the generator is then trained anew), or torchrun --nproc-per-node with less than 2\n"
    )
    assert said.count(message) == said.count("error: ") == 1, said
    assert "interrupted" not in said
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == [MARKER, CHECKPOINT]


def test_a_batch_that_cannot_be_shared_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "ranks_of_this_run", lambda _device: nullcontext(Ranks(0, 3)))
    result = CliRunner().invoke(command, FLAGS)
    assert result.exit_code == 2
    assert "expected --gan-batch to be a multiple of 6" in result.output
    assert "--gan-batch 66" in result.output
    assert "capture" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the second of two processes."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # some clusters set it everywhere
    assert not launched()
    with ranks_of_this_run("auto") as ranks:
        assert ranks is SINGLE


def test_one_process_of_torchrun_is_alone(other_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched()


def test_other_ranks_are_mute_inside_the_block(other_rank: None, capsys: pytest.CaptureFixture[str]) -> None:
    with muted_unless_first():
        print("out")
        print("err", file=sys.stderr)
    print("after")
    assert capsys.readouterr() == ("after\n", "")


def test_the_first_rank_speaks(
    other_rank: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    with muted_unless_first():
        print("out")
    assert capsys.readouterr().out == "out\n"


@pytest.mark.parametrize(
    ("error", "type_", "text"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (OptionsError("flag"), OptionsError, "flag"),
        (CalibrationError("data"), ConversionError, "data"),
        (BuildError("engine"), ConversionError, "engine"),
    ],
)
def test_errors_travel_as_what_the_user_would_have_seen(
    error: BaseException, type_: type[BaseException], text: str
) -> None:
    kind, words = encode_error(error)
    again = decode_error(*json.loads(json.dumps([kind, words])), 1)
    assert (type(again), str(again)) == (type_, text)


def test_a_bug_travels_with_its_traceback() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        again = decode_error(*encode_error(error), 3)
    assert isinstance(again, RuntimeError)
    assert "process 3 failed" in str(again)
    assert "test_ranks.py" in str(again)


def channels() -> tuple[FailureChannel, FailureChannel]:
    """The first and the second rank's end."""
    store = distributed.HashStore()
    return FailureChannel(store, Ranks(0, 2)), FailureChannel(store, Ranks(1, 2))


@pytest.mark.parametrize("seen", [RankLostError("gone"), KeyboardInterrupt()], ids=["cut off", "told to end"])
def test_the_first_rank_learns_what_another_ran_into(
    seen: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = channels()
    first.say_told()
    assert second.report(OptionsError("flag")) == 2
    cause = first.cause(seen)
    assert (type(cause), str(cause)) == (OptionsError, "flag")
    assert capfd.readouterr() == ("", "")


def test_the_first_ranks_own_error_comes_first() -> None:
    first, second = channels()
    first.say_told()
    second.report(CalibrationError("theirs"))
    own = CalibrationError("own")
    assert first.cause(own) is own


def test_a_process_that_ended_without_a_word() -> None:
    first, _ = channels()
    cause = first.cause(RankLostError("gone"))
    assert isinstance(cause, ConversionError)
    assert "--nproc-per-node" in str(cause)
    interrupt = KeyboardInterrupt()
    assert first.cause(interrupt) is interrupt


def test_another_rank_speaks_where_the_first_is_stuck(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "TOLD_WITHIN_S", 0.1)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    _, second = channels()
    assert second.report(CalibrationError("nobody listens")) == 1
    assert second.report(KeyboardInterrupt()) == 130
    assert capfd.readouterr().err == "error: nobody listens\n"


def test_a_rank_that_was_cut_off_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_S", 0.0)
    first, second = channels()
    assert second.report(RankLostError("gone")) == 1
    assert isinstance(first.cause(KeyboardInterrupt()), KeyboardInterrupt)
    assert capfd.readouterr() == ("", "")


def test_each_process_takes_its_own_gpu(other_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert take_gpu("auto")
    assert take_gpu("cuda")
    assert not take_gpu("cpu")
    assert taken == [1, 1]


def test_more_processes_than_gpus_are_refused(other_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionsError, match="--nproc-per-node 1, or --device cpu"):
        take_gpu("auto")


def test_a_rank_reports_before_it_closes_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = channels()
    first.say_told()
    seen: list[bool] = []
    monkeypatch.setattr(Ranks, "abandon", lambda _: seen.append(first.others_failed()))
    assert not first.others_failed()
    second.report(CalibrationError("theirs"))
    assert seen == [True]
    assert not second.others_failed()


def test_an_interrupt_of_another_rank_leaves_the_first_the_time_to_save() -> None:
    first, second = channels()
    first.say_told()
    second.report(KeyboardInterrupt())
    assert not first.others_failed()


@pytest.mark.parametrize(("closed", "ended"), [(True, []), (False, [1])])
def test_a_process_whose_connections_hang_is_ended(
    closed: bool, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(Ranks, "abandon", lambda _: closed)
    monkeypatch.setattr(module, "leave_process", codes.append)
    module.end_process(Ranks(1, 2))
    assert codes == ended


def test_closing_connections_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(calibrators_distributed, "ABANDONED_WITHIN_S", 0.05)
    monkeypatch.setattr(calibrators_distributed, "_abort", lambda: release.wait(60))
    assert not Ranks(0, 2).abandon()
    release.set()
    assert SINGLE.abandon()
