"""The doctor with made-up findings, and for real on this machine."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from converter.doctor import cli as doctor
from converter.doctor import selftest
from converter.doctor.cli import command, table, verdict
from converter.doctor.diagnosis import Checkup, Component, checkup_from_findings
from converter.doctor.probes import PROBES, Finding, answer
from converter.doctor.selftest import Results
from tests.converter.system_files import jetson
from tests.test_structure import HEAVY, OPTIONAL, import_without

ROOT = Path(__file__).parents[3]

MISSING = Finding(None, False)
RTX_6000 = {"name": "NVIDIA RTX 6000 Ada Generation", "compute_capability": "8.9"}
H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}

BARE: dict[str, Finding] = {
    "onnxruntime": Finding("1.32.0", True),
    "tensorrt": MISSING,
    "tensorrt-rtx": MISSING,
    "pycuda": MISSING,
    "torch": Finding("2.14.1+cpu", False, "this PyTorch is built without CUDA", {"cuda": None}),
    "gpu": Finding(None, False, "no NVIDIA driver is installed here (libcuda.so.1)"),
    "nvml": MISSING,
    "modelopt": MISSING,
    "pytorch-quantization": MISSING,
    "system": MISSING,
}


def on_gpu(*gpus: Mapping[str, str]) -> dict[str, Finding]:
    """Everything installed and working on a machine with these GPUs."""
    return {
        "onnxruntime": Finding("1.32.0", True),
        "tensorrt": Finding("10.13.0", True),
        "tensorrt-rtx": Finding("1.7.1.116", True),
        "pycuda": Finding("2026.1", True),
        "torch": Finding("2.14.1+cu130", True, "", {"cuda": "13.0"}),
        "gpu": Finding(None, True, "", {"cuda": "13.0", "gpus": list(gpus)}),
        "nvml": Finding("13.615.71", True, "", {"driver": "580.65.06", "gpus": []}),
        "modelopt": Finding("0.47.0", True),
        "pytorch-quantization": Finding("2.2.1", True),
        "system": MISSING,
    }


def component(findings: Mapping[str, Finding], name: str) -> Component:
    (found,) = (entry for entry in checkup_from_findings(findings).components if entry.name == name)
    return found


def run(monkeypatch: pytest.MonkeyPatch, findings: Mapping[str, Finding], *arguments: str) -> Result:
    monkeypatch.setattr(doctor, "ask_all", lambda: dict(findings))
    return CliRunner().invoke(command, list(arguments))


def test_findings_of_these_tests_are_those_of_the_probes() -> None:
    assert set(BARE) == set(on_gpu()) == set(PROBES)


def test_a_bare_machine_has_onnxruntime_alone() -> None:
    checkup = checkup_from_findings(BARE)
    assert checkup.passed
    assert [engine.name for engine in checkup.engines if engine.builds] == ["onnxruntime"]
    assert verdict(checkup) == "PASSED: onnxruntime builds and runs here"
    tensorrt = component(BARE, "tensorrt")
    assert tensorrt.reason.startswith("not installed; it builds and runs on an NVIDIA GPU alone")
    assert tensorrt.fix == 'on a machine with a GPU: pip install "zscgan-convert[tensorrt]"'


def test_all_works_on_an_rtx_gpu() -> None:
    checkup = checkup_from_findings(on_gpu(RTX_6000))
    assert all(entry.runs for entry in checkup.components)
    assert not any(entry.reason or entry.fix for entry in checkup.components)
    assert verdict(checkup) == "PASSED: onnxruntime and tensorrt and tensorrt-rtx build and run here"


def test_a_data_centre_gpu_does_not_run_plans_of_tensorrt_for_rtx() -> None:
    found = component(on_gpu(H100), "tensorrt-rtx")
    assert (found.builds, found.runs) == (True, False)
    assert "H100 80GB HBM3 has 9.0" in found.reason
    assert "--engine tensorrt" in found.reason
    # Engines run on the first GPU.
    assert not component(on_gpu(H100, RTX_6000), "tensorrt-rtx").runs
    assert component(on_gpu(RTX_6000, H100), "tensorrt-rtx").runs


@pytest.mark.parametrize(
    ("name", "finding", "reason", "fix"),
    [
        ("tensorrt", MISSING, "not installed", 'pip install "zscgan-convert[tensorrt]"'),
        ("tensorrt", Finding("10.13.0", False, "ImportError: libcudart.so.13"), "ImportError: libcudart.so.13",
         'pip install "zscgan-convert[tensorrt]"'),
        ("pycuda", MISSING, "not installed",
         'pip install "zscgan-convert[pycuda]", which compiles it with the CUDA toolkit; torch does without'),
        ("onnxruntime", Finding("1.32.0", False, "ImportError: GLIBC"), "ImportError: GLIBC",
         "pip install --force-reinstall onnxruntime"),
        ("nvidia-ml-py", MISSING, "not installed", "pip install nvidia-ml-py"),
        ("modelopt", MISSING, "not installed", 'pip install "zscgan-convert[qat]"'),
        ("torch", Finding("2.14.1", False, "this PyTorch is built without CUDA", {"cuda": None}),
         "this PyTorch is built without CUDA",
         "install PyTorch's build for your CUDA: https://pytorch.org/get-started"),
        ("torch", Finding("2.14.1", False, "RuntimeError: driver too old", {"cuda": "13.0"}),
         "RuntimeError: driver too old",
         "update the NVIDIA driver, or install PyTorch for an older CUDA: https://pytorch.org/get-started"),
        ("torch", MISSING, "not installed", "pip install torch torchvision"),
    ],
)  # fmt: skip
def test_what_is_wrong_on_a_gpu_machine_and_what_fixes_it(
    name: str, finding: Finding, reason: str, fix: str
) -> None:
    probe = "nvml" if name == "nvidia-ml-py" else name
    found = component({**on_gpu(RTX_6000), probe: finding}, name)
    assert (found.runs, found.reason, found.fix) == (False, reason, fix)


def test_the_old_quantizer_is_not_recommended() -> None:
    found = component(BARE, "pytorch-quantization")
    assert found.reason == "not installed"
    assert "--qat-backend modelopt" in found.fix
    assert "pip install" not in found.fix


def test_a_folder_in_the_way_is_named_with_and_without_a_gpu() -> None:
    impostor = Finding(None, False, "a folder called tensorrt stands on Python's path", {"impostor": True})
    assert component({**on_gpu(RTX_6000), "tensorrt": impostor}, "tensorrt").reason == impostor.reason
    assert impostor.reason in component({**BARE, "tensorrt": impostor}, "tensorrt").reason


def test_an_import_error_without_a_gpu_is_the_missing_gpu() -> None:
    broken = Finding("10.13.0", False, "ImportError: libcuda.so.1")
    found = component({**BARE, "tensorrt": broken, "pycuda": broken, "nvml": broken}, "tensorrt")
    assert (found.builds, found.reason) == (
        False,
        "it builds and runs on an NVIDIA GPU alone, and no NVIDIA GPU answers here",
    )
    assert found.fix == ""


def test_tensorrt_for_rtx_builds_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = component({**BARE, "tensorrt-rtx": Finding("1.7.1.116", True)}, "tensorrt-rtx")
    assert (found.builds, found.runs) == (True, False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert component(BARE, "tensorrt-rtx").fix == 'pip install "zscgan-convert[rtx]"'
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    missing = component(BARE, "tensorrt-rtx")
    assert (missing.fix, missing.reason) == ("", "not installed; it is made for x86-64 machines alone")


@pytest.mark.parametrize(
    "findings", [BARE, on_gpu(RTX_6000, H100), on_gpu(H100)], ids=["bare", "both", "h100"]
)
def test_the_table_fits_into_80_columns(findings: Mapping[str, Finding]) -> None:
    reason = "ImportError: libnvinfer_builder_resource_sm80.so.10.13.0: cannot open shared object file: " * 2
    text = table(checkup_from_findings({**findings, "modelopt": Finding("0.47.0", False, reason)}))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][:4] == [
        "zscgan-convert", "Python", "CPU", "GPU"
    ]  # fmt: skip


def test_commands_are_not_broken_apart() -> None:
    text = table(checkup_from_findings({**on_gpu(RTX_6000), "tensorrt": MISSING}))
    assert '    -> pip install "zscgan-convert[tensorrt]"' in text.splitlines()


def test_the_table_names_gpus_and_driver() -> None:
    lines = table(checkup_from_findings(on_gpu(RTX_6000, H100))).splitlines()
    assert "GPU      NVIDIA RTX 6000 Ada Generation, compute capability 8.9" in lines
    assert "GPU      NVIDIA H100 80GB HBM3, compute capability 9.0" in lines
    assert "driver   580.65.06, CUDA 13.0" in lines
    assert "PyTorch  2.14.1+cu130, built for CUDA 13.0" in lines
    assert "GPU      none: no NVIDIA driver is installed here (libcuda.so.1)" in table(
        checkup_from_findings(BARE)
    )


ORIN = {"name": "Orin", "compute_capability": "8.7"}


@pytest.fixture
def on_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """JetPack's files under a root of their own, and an environment that is closed to its TensorRT."""
    monkeypatch.setattr("converter.environment.system.ROOT", jetson(tmp_path))
    without_cuda = Finding("2.14.1+cpu", False, "this PyTorch is built without CUDA", {"cuda": None})
    system = Finding(**answer("system"))
    return {**on_gpu(ORIN), "tensorrt": MISSING, "torch": without_cuda, "system": system}


def test_a_jetson_is_named_with_its_tensorrt(on_jetson: dict[str, Finding]) -> None:
    checkup = checkup_from_findings(on_jetson)
    lines = table(checkup).splitlines()
    assert "Jetson   JetPack 6.2.1, Jetson Linux 36.4.4" in lines
    assert "system   TensorRT 10.3.0.30 from Debian packages" in lines
    assert max(map(len, lines)) <= 80
    machine = checkup.to_json()["machine"]
    assert (machine["jetpack"], machine["l4t"], machine["system_tensorrt"]) == (
        "6.2.1",
        "36.4.4",
        "10.3.0.30",
    )


def test_a_tensorrt_that_the_environment_does_not_see_is_shown_the_way(on_jetson: dict[str, Finding]) -> None:
    found = component(on_jetson, "tensorrt")
    assert found.reason == "this Python doesn't see TensorRT 10.3.0.30 in /usr/lib/python3.10/dist-packages"
    assert found.fix == "make the environment anew: python3 -m venv --system-site-packages .venv"
    without_bindings = {**on_jetson, "system": Finding("10.3.0", True, "", {"tensorrt": "10.3.0"})}
    assert component(without_bindings, "tensorrt").fix.startswith("sudo apt-get install python3-libnvinfer; ")
    seen = {**on_jetson, "tensorrt": Finding("10.3.0", True)}
    assert (component(seen, "tensorrt").reason, component(seen, "tensorrt").fix) == ("", "")


def test_the_pytorch_of_a_jetson_is_not_that_of_its_web_page(on_jetson: dict[str, Finding]) -> None:
    found = component(on_jetson, "torch")
    assert found.reason == "this PyTorch is built without CUDA"
    assert "pytorch.org" not in found.fix
    assert "docs/jetson.md" in found.fix


def test_a_jetson_without_the_package_jetpack() -> None:
    system = Finding(None, False, "", {"l4t": "36.4.4"})
    text = " ".join(table(checkup_from_findings({**BARE, "system": system})).split())
    assert "Jetson JetPack unknown (the package nvidia-jetpack is not installed), Jetson Linux 36.4.4" in text
    assert "Jetson " not in table(checkup_from_findings(BARE))


def test_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, BARE).exit_code == 0
    broken = run(monkeypatch, {**BARE, "onnxruntime": Finding("1.32.0", False, "ImportError: GLIBC")})
    assert broken.exit_code == 1
    assert "FAILED: no engine builds and runs here" in broken.output
    assert "ImportError: GLIBC" in broken.output
    assert run(monkeypatch, BARE, "-o", "x.json").exit_code == 2


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> dict[str, Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "ask_all", stopped)
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, "interrupted" in result.output) == (130, True)


def test_json_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, on_gpu(H100), "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["passed"] is True
    assert document["machine"]["gpus"] == [H100]
    assert document["machine"]["driver"] == "580.65.06"
    assert [entry["name"] for entry in document["components"]] == [
        "onnxruntime", "tensorrt", "tensorrt-rtx", "pycuda", "torch", "nvidia-ml-py", "modelopt", "pytorch-quantization"
    ]  # fmt: skip
    assert document["components"][2]["builds"] is True
    assert document["components"][2]["runs"] is False


def test_json_holds_no_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = f"ImportError: {Path.home() / 'libs' / 'libnvinfer.so'} in {sys.prefix}/lib"
    result = run(monkeypatch, {**on_gpu(H100), "modelopt": Finding("0.47.0", False, reason)}, "--json")
    assert str(Path.home()) not in result.stdout
    assert sys.prefix not in result.stdout


def selftest_of(passed: bool) -> Any:
    status = selftest.PASSED if passed else selftest.FAILED
    engine = selftest.Result("onnxruntime", status, why="" if passed else f"no {Path.home()}/x")
    return lambda checkup, say: Results((engine,), (), 1.0)


def test_the_self_test_decides_the_exit_code_and_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    monkeypatch.setattr(selftest, "selftest_engines", selftest_of(passed=True))
    assert run(monkeypatch, BARE, "--selftest", "-o", str(path)).exit_code == 0
    assert json.loads(path.read_text())["selftest"]["engines"][0]["status"] == "passed"
    monkeypatch.setattr(selftest, "selftest_engines", selftest_of(passed=False))
    result = run(monkeypatch, BARE, "--selftest", "--json", "-o", str(path))
    assert result.exit_code == 1
    document = json.loads(path.read_text())
    assert json.loads(result.stdout) == document
    assert document["passed"] is False
    assert document["selftest"]["engines"][0]["why"] == "no ~/x"


def test_a_report_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selftest, "selftest_engines", selftest_of(passed=True))
    result = run(monkeypatch, BARE, "--selftest", "-o", str(tmp_path / "no" / "such.json"))
    assert result.exit_code == 1
    assert "give another -o FILE" in result.output


def test_help_needs_no_package() -> None:
    result = import_without(OPTIONAL + HEAVY, ["converter.doctor.cli", "converter.doctor.selftest"])
    assert result.returncode == 0, result.stdout + result.stderr
    script = (
        "import sys; from converter.doctor.cli import command; command(['--help'], standalone_mode=False); "
        f"heavy = set({OPTIONAL + HEAVY}) & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "--selftest" in done.stdout


@pytest.fixture(scope="module")
def here() -> Checkup:
    """This machine, for real."""
    return checkup_from_findings(doctor.ask_all())


@pytest.mark.slow
def test_this_machine_has_onnxruntime(here: Checkup) -> None:
    assert here.passed
    (onnxruntime,) = (engine for engine in here.engines if engine.name == "onnxruntime")
    assert (onnxruntime.builds, onnxruntime.runs, onnxruntime.reason) == (True, True, "")
    assert max(map(len, table(here).splitlines())) <= 80


@pytest.mark.slow
def test_tensorrt_for_rtx_builds_on_this_machine(here: Checkup) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    (rtx,) = (engine for engine in here.engines if engine.name == "tensorrt-rtx")
    assert rtx.builds
    assert rtx.version


@pytest.mark.slow
def test_what_this_machine_lacks_has_a_way_to_fix_it(here: Checkup) -> None:
    for entry in here.components:
        if entry.version is None and not entry.runs:
            assert entry.fix, entry


@pytest.mark.slow
@pytest.mark.gpu
def test_tensorrt_and_a_memory_provider_work_on_this_gpu(here: Checkup) -> None:
    works = {entry.name for entry in here.components if entry.runs}
    assert "tensorrt" in works
    assert works & {"pycuda", "torch"}
