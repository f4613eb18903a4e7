"""What is said of the comparison of FP32 and INT8."""

import numpy as np
import pytest

from converter.console import Console
from converter.stages.verify import warn_of_nothing
from converter.trust.task.base import Agreement
from tests.converter.jobs import job_of


@pytest.mark.parametrize(("of", "codes"), [([0.0, 0.0], ["nothing-found"]), ([0.0, 2.0], [])])
def test_an_agreement_on_nothing_is_told(of: list[float], codes: list[str]) -> None:
    console = Console(quiet=True)
    warn_of_nothing(job_of(console=console), Agreement(np.array(of), np.array(of)), "the samples")
    assert [warning.code for warning in console.warnings] == codes
