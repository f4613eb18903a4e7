"""The statistics by hand, margins that are found again, and quantizations that are what their names say."""

from dataclasses import replace
from pathlib import Path

import agreement
import numpy as np
import prediction
import pytest
import quantizations
import torch
from prediction import Fitted, Logits, Row, figures, fitted_to_others, groups, ranks, spearman
from quantizations import Case, Measured, cases_of, kept
from torch import nn

from calibrators.data.batches import TensorBatches
from converter.quantize.placement import ActivationQuantizer, QuantizationPlan, WeightQuantizer
from converter.trust.prediction import Prediction, sureness


def test_ranks_by_hand_with_ties() -> None:
    assert ranks([3.0, 1.0, 3.0, 0.0]).tolist() == [3.5, 2.0, 3.5, 1.0]
    assert spearman([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]) == pytest.approx(0.5)
    assert spearman([1.0, 2.0, 2.0], [1.0, 5.0, 5.0]) == pytest.approx(1)
    assert spearman([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]) == 0


def planted(width: float, slope: float, images: int = 20_000) -> Logits:
    """A network of two classes, with logits of one deviation on the samples, as ``Margins`` assumes them."""
    random = np.random.default_rng(0)
    margins = random.uniform(0, width, images)
    right = random.random(images) < 1 / (1 + np.exp(-2 * slope * margins))
    logits = np.stack([margins, np.zeros(images)], axis=1).astype(np.float32)
    samples = np.float32([[2, 0]] * 4)
    return Logits("planted", np.where(right, 0, 1), Measured(logits, samples), {}, samples / 2)


def test_margins_are_found_again() -> None:
    found = planted(width=4.0, slope=1.2).fitted()
    assert found.width == pytest.approx(4.0 / sureness(np.float32([[1, 0]])), rel=0.02)
    assert found.slope == pytest.approx(1.2, abs=0.1)


def test_a_network_gets_the_margins_of_the_others() -> None:
    margins = {name: Fitted(width, 1.0) for name, width in (("a", 2.0), ("b", 4.0), ("c", 9.0))}
    assert fitted_to_others("a", margins).width == pytest.approx(6.5)
    assert fitted_to_others("c", margins).width == pytest.approx(3.0)
    assert fitted_to_others("a", {"a": Fitted(2.0, 1.0)}).width == 2.0


def test_what_is_measured_and_predicted_of_a_quantization() -> None:
    fp32 = np.float32([[2, 0], [2, 0], [0, 2], [0, 2]])
    int8 = np.float32([[2, 0], [0, 1], [0, 2], [0, 2]])
    network = Logits(
        "net", np.array([0, 0, 1, 0]), Measured(fp32, fp32), {Case(8, "mse"): Measured(int8, fp32)}, fp32
    )
    (row,) = network.rows(Fitted())
    assert (row.disagreement, row.drop, row.raw, row.int8) == (25, 25, 0, True)
    assert row.predicted.disagreement == 0


def row(network: str, truth: float, guess: float, *, int8: bool = True) -> Row:
    found = Prediction(guess, guess / 2, guess * 2, 0.5, 0.0, 1.0, 512)
    return Row(network, "W8A8", int8, truth, 2.0, 2 * truth, found, 10**6)


def test_figures_by_hand() -> None:
    rows = [row("a", 1.0, 1.5), row("a", 2.0, 5.0), row("b", 4.0, 4.25, int8=False)]
    found = figures(rows)
    assert found["combinations"] == 3
    assert found["median_error"] == pytest.approx(0.5)
    assert found["largest_error"] == pytest.approx(3)
    assert found["spearman"] == pytest.approx(0.5)
    assert found["raw_spearman"] == pytest.approx(1)
    assert found["interval_met"] == pytest.approx(100 * 2 / 3)
    assert found["drop_median_error"] == pytest.approx(1.5)
    assert found["drop_interval_met"] == 0
    assert [len(some) for some in groups(rows).values()] == [3, 2, 2, 2, 1]


def test_a_measured_value_has_an_error_too() -> None:
    """0 of 500 images is no more than 0.76 %, by Wilson's interval; of two changes both may be losses."""
    few = replace(row("a", 0.0, 1.5), images=500)
    assert few.disagreement_met
    assert not replace(row("a", 0.0, 1.6), images=500).disagreement_met
    assert not replace(row("a", 0.0, 1.5), images=5000).disagreement_met
    changed = replace(row("a", 1.0, 1.0), images=400)
    assert changed.drop == 2.0
    assert not changed.drop_met
    assert replace(changed, images=300).drop_met


def test_table_and_picture(tmp_path: Path) -> None:
    rows = [row("a", 1.0, 1.5), row("a", 2.0, 5.0), row("b", 4.0, 4.25), row("b", 0.0, 0.25)]
    text = prediction.tables(rows)
    assert "| a | W8A8 | 2.00 | 5.00 (2.50..10.00) | 4.00 | 2.00 | 0.50 (0.00..1.00) |" in text
    assert "| all | 4 |" in text
    pytest.importorskip("matplotlib")
    assert prediction.save_plot(rows, tmp_path / "plot.png").stat().st_size > 1000


def test_quantizations_have_a_name_each() -> None:
    for name in prediction.NETWORKS:
        cases = cases_of(name)
        assert len({str(case) for case in cases}) == len(cases)
        assert {case.calibrator for case in cases} == {"entropy", "max", "percentile", "mse"}
    assert str(Case(6, "mse", "noise", "A")) == "A6 mse noise"


def test_logits_are_computed_once(tmp_path: Path) -> None:
    batches = TensorBatches(torch.rand(5, 1, 2, 2), torch.arange(5), batch_size=2)
    built: list[nn.Module] = []

    def network() -> nn.Module:
        built.append(nn.Flatten())
        return built[-1]

    first, second = (kept(tmp_path / "logits.npy", network, batches) for _ in range(2))
    assert len(built) == 1
    assert np.array_equal(first, batches.x.flatten(1).numpy())
    assert np.array_equal(first, second)
    assert quantizations.labels(batches).tolist() == [0, 1, 2, 3, 4]


def test_networks_outside_the_constants_are_predicted_as_in_a_conversion_and_fit_none() -> None:
    margins = {"a": Fitted(2.0, 1.0), "b": Fitted(4.0, 1.0), "vgg": Fitted(100.0, 1.0)}
    assert fitted_to_others("vgg", margins) == Fitted()
    assert fitted_to_others("a", margins).width == 4.0


@pytest.mark.parametrize(
    ("what", "weights", "activations"), [("WA", True, True), ("W", True, False), ("A", False, True)]
)
def test_a_case_quantizes_its_part_of_the_plan(what: str, weights: bool, activations: bool) -> None:
    plan = QuantizationPlan((ActivationQuantizer("x", ("y",), "x"),), (WeightQuantizer("w", 0, "y"),))
    part = Case(8, "mse", what=what).part_of(plan)  # type: ignore[arg-type]
    assert (bool(part.weights), bool(part.activations)) == (weights, activations)


def test_agreement_on_samples_beside_that_on_images() -> None:
    rows = [
        agreement.Row("a", "W8A8 mse samples", 90.0, 1.0, 95.0, 1.0),
        agreement.Row("a", "W6A6 mse samples", 60.0, 1.0, 80.0, 1.0),
        agreement.Row("b", "W8A8 max noise", 100.0, 0.0, 99.0, 1.0),
    ]
    assert agreement.figures(rows) == (
        "3 quantizations: rank correlation 1.00, samples / images 0.50 in the median, error 5.0 points in the median, "
        "20.0 at most"
    )
    assert (
        agreement.summary(rows).splitlines()[3].startswith("b, W8A8: 1 quantizations: rank correlation 0.00")
    )
