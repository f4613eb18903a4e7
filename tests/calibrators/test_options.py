import subprocess
import sys

import pytest

from calibrators.options import CalibrationOptions


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"percentile": 0.0}, "--percentile above 0 and up to 100, got 0.0"),
        ({"percentile": 100.1}, "--percentile"),
        ({"percentile": float("nan")}, "--percentile"),
        ({"samples": 0}, "--calib-samples of 1 or more, got 0"),
    ],
)
def test_a_wrong_option_is_refused_by_its_flag(options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CalibrationOptions(**options)


def test_an_unknown_calibrator_is_refused_by_its_flag() -> None:
    options = object.__new__(CalibrationOptions)
    object.__setattr__(options, "algorithm", "kl")
    with pytest.raises(ValueError, match="--calibrator to be one of entropy, max, percentile, mse, got kl"):
        options.__post_init__()


def test_torch_is_not_imported() -> None:
    code = "import sys, calibrators.options, calibrators.ranges.scales; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
