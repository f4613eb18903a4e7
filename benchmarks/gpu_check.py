"""What this project does on a GPU, checked within 8 minutes on a machine that has PyTorch and no TensorRT.

    python benchmarks/gpu_check.py --out benchmarks/results/gpu.json

Each check runs in a process of its own and is ``passed``, ``failed``, ``skipped`` (something that it needs is not
there) or ``not run`` (out of time). ``--device cpu`` runs those that make sense there, on a small scale: a check of
the checks; a slow machine takes more ``--longest-s``. The project runs from its source tree and need not be installed,
but what it depends on must be; ModelOpt and PyCUDA are used where they are.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from converter.doctor.isolated_call import ChildError, call_in_child  # noqa: E402
from converter.environment.machine import processor, public_text, without_private_names  # noqa: E402
from converter.version import __version__  # noqa: E402 - found on the path of above
from engines.gpu import gpus  # noqa: E402

SCHEMA = 1
LONGEST_S = 420.0
"""Of all checks together, so that the whole stays under 8 minutes."""
LEAST_S = 10.0
"""Less than this is no use to any check."""
PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
LAST_LINES = 20
CONVERSION = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Check:
    """``function`` as ``module:function``, the seconds that it may take, the packages it needs, and whether a GPU."""

    function: str
    budget_s: float
    needs: tuple[str, ...] = ()
    gpu: bool = False

    @property
    def name(self) -> str:
        """The function's."""
        return self.function.partition(":")[2]


CHECKS = (
    Check("gpu_checks:moments", 30),
    Check("gpu_checks:histograms", 30),
    Check("gpu_checks:buffers", 40, gpu=True),
    Check("gpu_checks:capture", 140, ("torchvision", "onnx", "onnxscript")),
    Check("gpu_checks:step_time", 100, ("torchvision",)),
    Check("gpu_runs:conversion", 150, CONVERSION),
    Check("gpu_runs:out_of_memory", 50, CONVERSION),
    Check("gpu_runs:two_ranks", 50, CONVERSION, gpu=True),
    Check("gpu_checks:ranges", 60, ("onnx", "onnxscript")),
    Check("gpu_runs:qat", 90, (*CONVERSION, "modelopt")),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a check; ``why`` it did not pass, and its ``figures``."""

    name: str
    status: str
    seconds: float = 0.0
    why: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def outcome_of(check: Check, device: str, left_s: float, slowness: float = 1.0) -> Outcome:
    """The check, run in a process of its own that has ``slowness`` times its budget, and ``left_s`` at most."""
    if check.gpu and device == "cpu":
        return Outcome(check.name, SKIPPED, why="needs a GPU")
    if absent := [name for name in check.needs if importlib.util.find_spec(name) is None]:
        return Outcome(check.name, SKIPPED, why=f"{' and '.join(absent)} not installed")
    if left_s < LEAST_S:
        return Outcome(check.name, NOT_RUN, why="out of time")
    limit, started = min(check.budget_s * slowness, left_s), time.perf_counter()
    setting = {"device": device, "timeout_s": 0.9 * limit}
    try:
        found = call_in_child(check.function, setting, limit)
    except ChildError as error:
        said = "\n".join(error.stderr.strip().splitlines()[-LAST_LINES:])
        return Outcome(
            check.name, FAILED, time.perf_counter() - started, public_text(f"{error.how}\n{said}".strip())
        )
    status = FAILED if found["wrong"] else PASSED
    seconds = time.perf_counter() - started
    return Outcome(check.name, status, seconds, "; ".join(found["wrong"]), found["figures"])


def outcomes(checks: tuple[Check, ...], device: str, longest_s: float) -> Iterator[Outcome]:
    """The checks one after the other, until ``longest_s`` are over."""
    deadline = time.monotonic() + longest_s
    for check in checks:
        yield outcome_of(check, device, deadline - time.monotonic(), longest_s / LONGEST_S)


def document_of(device: str, found: list[Outcome], seconds: float) -> dict[str, Any]:
    """All of it for JSON, with the names of the card and the CPU and without private ones."""
    try:
        machine = call_in_child("gpu_checks:machine", {"device": device}, 60)
    except ChildError as error:
        machine = {"unknown": error.in_words}
    document = {
        "schema": SCHEMA,
        "version": __version__,
        "device": device,
        "machine": {"cpu": processor(), **machine},
        "passed": any(outcome.status == PASSED for outcome in found)
        and all(outcome.status in (PASSED, SKIPPED) for outcome in found),
        "seconds": seconds,
        "checks": [asdict(outcome) for outcome in found],
    }
    cleaned: dict[str, Any] = without_private_names(document)
    return cleaned


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", metavar="NAME,...", help=f"from {','.join(check.name for check in CHECKS)}")
    parser.add_argument("--longest-s", type=float, default=LONGEST_S, help="default: %(default)s")
    options = parser.parse_args()
    number, reason = gpus()
    if options.device == "cuda" and number == 0:
        sys.exit(f"expected an NVIDIA GPU, but {reason}; --device cpu runs the checks that need none")
    wanted = options.only.split(",") if options.only else [check.name for check in CHECKS]
    if unknown := set(wanted) - {check.name for check in CHECKS}:
        sys.exit(
            f"expected --only from {', '.join(check.name for check in CHECKS)}, got {', '.join(unknown)}"
        )
    started, found = time.perf_counter(), []
    for outcome in outcomes(
        tuple(check for check in CHECKS if check.name in wanted), options.device, options.longest_s
    ):
        found.append(outcome)
        print(f"{outcome.name:<14}{outcome.status:<8}{outcome.seconds:7.1f} s  {outcome.why}", flush=True)
    document = document_of(options.device, found, time.perf_counter() - started)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{'PASSED' if document['passed'] else 'FAILED'} in {document['seconds']:.0f} s -> {options.out}")
    sys.exit(0 if document["passed"] else 1)


if __name__ == "__main__":
    main()
