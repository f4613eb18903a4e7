"""What counts as good as the best calibrator, and the table that says so."""

import numpy as np
from calibrator_choice import Result, Row, as_good_as_best, table


def passed(*images: int) -> np.ndarray:
    return np.isin(np.arange(100), images)


def test_one_image_more_or_less_is_no_difference() -> None:
    found = {"entropy": passed(1, 2, 3), "max": passed(1, 2), "mse": passed(1), "percentile": passed(7, 8)}
    assert as_good_as_best(found, "entropy")  # type: ignore[arg-type]
    assert as_good_as_best(found, "max")  # type: ignore[arg-type]
    assert not as_good_as_best(found, "mse")  # type: ignore[arg-type] # 2 of 2 differing images
    assert as_good_as_best(found, "percentile")  # type: ignore[arg-type] # 1 less, but 5 differ


def test_the_table_marks_and_counts_what_was_taken() -> None:
    results = {
        "entropy": Result(2e-4, 90.0, 97.0, False, False),
        "max": Result(1e-4, 91.0, 98.0, True, False),
        "percentile": Result(3e-4, 91.0, 98.5, True, True),
        "mse": Result(4e-4, 91.0, 98.5, True, True),
    }
    lines = table([Row("digits", 0, 500, 99.0, "max", results)]).splitlines()  # type: ignore[arg-type]
    assert "| digits, 0 | 99.00 | **max** | 1.00e-04 | 91.00 | 98.00 | yes, no |" in lines
    assert lines[-5:] == [
        "| auto | 1 of 1 | 0 of 1 |",
        "| entropy | 0 of 1 | 0 of 1 |",
        "| max | 1 of 1 | 0 of 1 |",
        "| percentile | 1 of 1 | 1 of 1 |",
        "| mse | 1 of 1 | 1 of 1 |",
    ]
