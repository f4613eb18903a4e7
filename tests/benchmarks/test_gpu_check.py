"""The checks of a GPU, as far as a CPU goes, and what is made of their results."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import gpu_checks
import pytest
import torch
from gpu_check import CHECKS, Check, document_of, outcome_of, outcomes

from converter.doctor.isolated_call import ChildError

SCRIPT = Path(gpu_check.__file__)
CPU = {"device": "cpu", "timeout_s": 60.0}


@pytest.mark.parametrize(
    "check", [gpu_checks.moments, gpu_checks.histograms], ids=lambda check: check.__name__
)
def test_a_cpu_is_like_a_cpu(check: Any) -> None:
    found = check(CPU)
    assert found["wrong"] == []
    assert json.loads(json.dumps(found)) == found


def test_moments_that_are_wrong_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_checks.batch_moments

    def with_unbiased_variance(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = right(x)
        count = x.numel() / x.shape[1]
        return mean, variance * count / (count - 1)

    monkeypatch.setattr(gpu_checks, "batch_moments", with_unbiased_variance)
    wrong = gpu_checks.moments(CPU)["wrong"]
    assert [text.partition(" differs")[0] for text in wrong] == [
        "contiguous: variance",
        "contiguous: gradient",
        "channels_last: variance",
        "channels_last: gradient",
    ]


def test_the_choice_of_kernels_is_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with gpu_checks.kernels(not before, True, False):
        assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the processes of the checks give: a result, or the error that they end with."""
    given: dict[str, Any] = {}

    def called(function: str, argument: Any, timeout_s: float) -> Any:
        result = given[function]
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(gpu_check, "call_in_child", called)
    return given


def test_each_check_passes_fails_or_says_why_not(answers: dict[str, Any]) -> None:
    answers["m:right"] = {"figures": {"ms": 1.5}, "wrong": []}
    answers["m:wrong"] = {"figures": {}, "wrong": ["one thing", "another"]}
    answers["m:crashed"] = ChildError("ended with signal SIGSEGV", "what it said last")
    checks = [Check(f"m:{name}", 20) for name in ("right", "wrong", "crashed")]
    checks += [Check("m:gpu", 20, gpu=True), Check("m:lacking", 20, ("no_such_package",))]
    found = [outcome_of(check, "cpu", 100) for check in checks]
    assert [(outcome.name, outcome.status, outcome.why) for outcome in found] == [
        ("right", "passed", ""),
        ("wrong", "failed", "one thing; another"),
        ("crashed", "failed", "ended with signal SIGSEGV\nwhat it said last"),
        ("gpu", "skipped", "needs a GPU"),
        ("lacking", "skipped", "no_such_package not installed"),
    ]
    assert found[0].figures == {"ms": 1.5}


def test_what_would_begin_too_late_is_not_run(answers: dict[str, Any]) -> None:
    (found,) = outcomes((Check("m:late", 20),), "cpu", gpu_check.LEAST_S / 2)
    assert (found.status, found.why) == ("not run", "out of time")
    answers["gpu_checks:machine"] = {"torch": "2"}
    assert not document_of("cpu", [found], 1.0)["passed"]


def test_a_run_in_which_all_was_skipped_has_not_passed(answers: dict[str, Any]) -> None:
    answers["gpu_checks:machine"] = ChildError("ended with exit code 1", "no torch")
    skipped = outcome_of(Check("m:gpu", 20, gpu=True), "cpu", 100)
    document = document_of("cpu", [skipped], 1.0)
    assert not document["passed"]
    assert document["machine"]["unknown"] == "ended with exit code 1: no torch"


def test_each_check_exists_and_their_names_differ() -> None:
    import gpu_runs

    modules = {"gpu_checks": gpu_checks, "gpu_runs": gpu_runs}
    for check in CHECKS:
        module, _, name = check.function.partition(":")
        assert callable(getattr(modules[module], name))
        assert check.budget_s > gpu_check.LEAST_S
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.slow
def test_the_script_runs_from_the_tree_and_writes_one_json(tmp_path: Path) -> None:
    out = tmp_path / "results" / "cpu.json"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = ["--device", "cpu", "--only", "histograms,buffers", "--longest-s", "4000", "--out", str(out)]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document.keys() == {"schema", "version", "device", "machine", "passed", "seconds", "checks"}
    assert document["machine"]["torch"] == torch.__version__
    assert document["passed"]
    statuses = {check["name"]: check["status"] for check in document["checks"]}
    assert statuses == {"histograms": "passed", "buffers": "skipped"}
    assert document["checks"][0]["figures"]["bins_that_differ"] == 0


def test_without_a_gpu_the_script_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "gpus", lambda: (0, "no NVIDIA driver is installed here"))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match=r"expected an NVIDIA GPU, but no NVIDIA driver .* --device cpu"):
        gpu_check.main()
    assert list(tmp_path.iterdir()) == []
