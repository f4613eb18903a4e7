"""The search on prices by hand, on networks with a planted bad layer, and whole conversions of the digits."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper

from calibrators.data.batches import TensorBatches, first_inputs
from calibrators.ranges.ranges import Ranges, load_ranges, save_ranges
from converter.cli.convert import command
from converter.graph.capture import FoldedGraph
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.report.document import AccuracySection, MixedPrecisionSection
from converter.report.summary import missed_gate
from converter.stages import mixed_precision as stage
from converter.trust.accuracy_drop import MeasuredDrop, PredictedDrop
from converter.trust.answers import answers
from converter.trust.layer_search import (
    Choice,
    Excluded,
    candidates_from_onnx,
    fewest_excluded,
    order_of_exclusion,
)
from converter.trust.prediction import Margins, Prediction
from converter.trust.sensitivity import sensitivity_from_graph
from converter.trust.task.classes import Classes
from converter.trust.trial_engine import UNQUANTIZED, run_trial
from tests.converter import networks
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions
from tests.converter.jobs import job_of
from tests.converter.reference import graph_of, inputs_of, planned
from tests.converter.report.html.reports import bare_report

TASK = Classes(5)
PRICES = {0: 0.1, 1: 3.0, 2: 0.05, 3: 1.0, 4: 0.2}


def summed(excluded: Excluded) -> float:
    """A network whose layers' losses add up."""
    return sum((price for position, price in PRICES.items() if position not in excluded), start=0.0)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (5.0, set()),
        (4.35, set()),
        (1.35, {1}),
        (0.4, {1, 3}),
        (0.35, {1, 3}),
        (0.15, {1, 3, 4}),
        (0.0, {0, 1, 2, 3, 4}),
    ],
)
def test_fewest_groups_for_a_target(target: float, expected: set[int]) -> None:
    choice = fewest_excluded([1, 3, 4, 0, 2], summed, target)
    assert choice.excluded == expected
    assert choice.met
    assert choice.drop == pytest.approx(summed(frozenset(expected)))
    assert choice.all_int8_drop == pytest.approx(4.35)
    for position, drop in choice.without.items():
        assert drop == pytest.approx(summed(choice.excluded - {position}))
        assert drop > target


def test_groups_that_a_wrong_order_took_are_given_back() -> None:
    choice = fewest_excluded([2, 0, 4, 1, 3], summed, 0.4)
    assert choice.excluded == {1, 3}
    assert set(choice.without) == {1, 3}


def test_a_target_out_of_reach_gives_the_best_that_was_tried() -> None:
    choice = fewest_excluded([1, 3], summed, 0.2)
    assert (choice.excluded, choice.met) == ({1, 3}, False)
    worse: Callable[[Excluded], float] = lambda excluded: 1.0 + len(excluded)  # noqa: E731
    choice = fewest_excluded([1, 3], worse, 0.2)
    assert (choice.excluded, choice.met, choice.drop) == (frozenset(), False, 1.0)
    assert fewest_excluded([], worse, 0.2) == Choice(frozenset(), 1.0, False, 1.0, {}, 1)


def test_tries_are_bounded_and_none_is_repeated() -> None:
    seen: list[Excluded] = []

    def drop(excluded: Excluded) -> float:
        seen.append(excluded)
        return 100.0 - len(excluded)

    choice = fewest_excluded(range(100), drop, 40.5, most_tries=20)
    assert choice.met
    assert len(choice.excluded) == 60
    assert choice.tried == len(seen) == len(set(seen)) == 20


def test_rounding_of_percentages_is_no_loss() -> None:
    assert fewest_excluded([0], lambda _: 92.4 - 91.8, 0.6).excluded == frozenset()


def planted(tensor: str, factor: float) -> tuple[FoldedGraph, QuantizationPlan, dict[str, float]]:
    """A small network with an absurd range for one tensor."""
    graph = graph_of(networks.Residual)
    plan, amax = planned(graph, inputs_of(networks.Residual, batch=64))
    return graph, plan, {**amax, tensor: factor * amax[tensor]}


def order_of(graph: FoldedGraph, plan: QuantizationPlan, amax: dict[str, float]) -> list[tuple[str, ...]]:
    candidates = candidates_from_onnx(graph.onnx, plan)
    x = inputs_of(networks.Residual, batch=64)
    found = sensitivity_from_graph(graph, plan, amax, TASK, x, batch_size=32, seed=0)
    return [candidates.groups[position].layers for position in order_of_exclusion(candidates, found)]


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [("relu_1", "conv2d_2"), ("relu_3", "conv2d_4"), ("input", "conv2d"), ("view", "logits")],
)
@pytest.mark.parametrize("factor", [0.05, 60.0])
def test_the_layer_with_an_absurd_range_leaves_first(tensor: str, layer: str, factor: float) -> None:
    graph, plan, amax = planted(tensor, factor)
    assert order_of(graph, plan, amax)[0] == (layer,)


def test_at_least_half_of_the_multiply_adds_stay() -> None:
    graph, plan, amax = planted("relu_1", 0.05)
    candidates = candidates_from_onnx(graph.onnx, plan)
    x = inputs_of(networks.Residual, batch=64)
    found = sensitivity_from_graph(graph, plan, amax, TASK, x, batch_size=32, seed=0)
    order = order_of_exclusion(candidates, found)
    assert len(order) == len(set(order)) < len(candidates.groups)
    assert candidates.macs_share(frozenset(order)) <= 50
    assert candidates.macs_share(frozenset(range(len(candidates.groups)))) == pytest.approx(100)
    assert order == order_of_exclusion(candidates, found)


def test_the_planted_layer_is_the_one_that_is_kept_in_float() -> None:
    """Agreement with FP32 stands for accuracy: labels are what FP32 says."""
    graph, images = graph_of(networks.Perceptron), inputs_of(networks.Perceptron, batch=64)
    plan, amax = planned(graph, images)
    amax, x = {**amax, "relu": 0.02 * amax["relu"]}, images.numpy()
    ranges = Ranges(amax, "max", 64, 0, "zscgan", None)
    with run_trial(graph, UNQUANTIZED, {}) as fp32:
        (logits,) = fp32(x)
        labels = logits.argmax(1)
        val = TensorBatches(torch.from_numpy(x), torch.from_numpy(labels), 32)
        baseline = answers(fp32, TASK, val, labels.tolist())
    drop_of = MeasuredDrop(graph, ranges, val, baseline)
    candidates = candidates_from_onnx(graph.onnx, plan)
    found = sensitivity_from_graph(graph, plan, amax, TASK, torch.from_numpy(x), batch_size=32, seed=0)
    choice, again = (
        fewest_excluded(
            order_of_exclusion(candidates, found), lambda excluded: drop_of(candidates.plan(excluded)), 3.2
        )
        for _ in range(2)
    )
    assert choice == again
    assert candidates.layers(choice.excluded) == ("linear_1",)
    assert choice.met
    assert choice.all_int8_drop > 10
    assert drop_of(place_quantizers(graph.onnx)) == choice.all_int8_drop
    guess = PredictedDrop(graph, ranges, TASK, x, logits, Margins(4.0))
    assert guess(QuantizationPlan((), ())) == 0
    assert guess(candidates.plan(choice.excluded)) < guess(plan)


def test_a_fine_tuned_network_is_compared_with_the_one_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, x = graph_of(networks.Perceptron), inputs_of(networks.Perceptron, batch=16)
    _, amax = planned(given, x)
    tuned = onnx.ModelProto()
    tuned.CopyFrom(given.onnx)
    weight = next(initializer for initializer in tuned.graph.initializer if len(initializer.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    batches = TensorBatches(x, torch.zeros(16, dtype=torch.long), 8)
    for name in ("unlabelled", "procedural_inputs"):
        monkeypatch.setattr(stage, name, lambda *_: batches)
    ranges = Ranges(amax, "max", 16, 0, "images", None)
    job = job_of(task=TASK)
    drop_of = stage.drop_of_plans(job, given, replace(given, onnx=tuned), ranges, None, None)
    assert drop_of.by == "prediction"
    assert drop_of(QuantizationPlan((), ())) > 1  # no quantizer, but other weights


def test_first_inputs_cuts_the_last_batch() -> None:
    x = torch.arange(10.0).view(10, 1, 1, 1)
    batches = TensorBatches(x, torch.zeros(10, dtype=torch.long), 4)
    assert first_inputs(batches, 6).ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert len(first_inputs(batches, 20)) == 10


def test_the_gate_is_measured_where_there_are_labels_and_predicted_else() -> None:
    report = bare_report()
    assert missed_gate(report, 0.5) == ""
    report = replace(
        report, mixed_precision=MixedPrecisionSection(0.5, False, "prediction", 0.8, 0.9, [], 100.0, 1)
    )
    assert "0.80 points of top-1, as predicted without labels, more than --max-drop 0.5" in missed_gate(
        report, 0.5
    )
    report = replace(report, prediction=Prediction(1.0, 0.5, 2.0, 0.4, 0.2, 0.8, 512))
    assert missed_gate(report, 0.5) == missed_gate(report, None) == ""
    report = replace(
        report, accuracy=AccuracySection(500, 92.4, "", 91.8, 99.0, metric="top-1", fp32=92.4, int8=91.8)
    )
    assert missed_gate(report, 0.6) == ""
    assert "0.60 points of top-1, more than" in missed_gate(report, 0.5)


SHORT = [*MODEL, *INPUT, "--int8", "--calib-samples", "64", "--no-html"]
VAL = ["--val", str(DIGITS / "test.npz")]


def convert(output: Path, *flags: str | Path) -> Result:
    return CliRunner().invoke(command, [*SHORT, "-o", str(output), *map(str, flags)])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A conversion without ``--max-drop``; throughput is not measured for long."""
    with quick_conversions():
        output = tmp_path_factory.mktemp("converted") / "out"
        result = convert(output, "--gan-steps", "12")
        assert result.exit_code == 0, result.output
        yield output


def spoilt(converted: Path, path: Path, factors: Callable[[str], float]) -> list[str | Path]:
    """The flags that reuse a conversion with its ranges multiplied."""
    ranges = load_ranges(converted / "calibration.json")
    amax = {name: value * factors(name) for name, value in ranges.amax.items()}
    save_ranges(replace(ranges, amax=amax), path)
    return ["--calibration-cache", path, "--generator", converted / "generator.pt"]


def report_of(output: Path) -> dict:
    content: dict = json.loads((output / "report.json").read_text())
    return content


def test_every_conversion_tells_what_each_layer_costs(converted: Path) -> None:
    found = report_of(converted)["sensitivity"]
    assert report_of(converted)["mixed_precision"] is None
    assert found["inputs"] == 256
    assert found["seconds"] > 0
    for rows in (found["tensors"], found["layers"]):
        kl = [row["kl"] for row in rows]
        assert kl == sorted(kl, reverse=True)
        assert min(kl) >= 0
    assert all(row["int8"] for row in found["layers"])
    assert {row["op"] for row in found["layers"]} == {"Conv", "Add", "Gemm", "ReduceMean"}
    (stem,) = (row for row in found["layers"] if row["name"] == "conv2d")
    kernel = next(
        w for w in onnx.load(converted / "model.fp32.onnx").graph.initializer if w.name == "conv1.weight"
    )
    assert stem["macs"] == 64 * int(np.prod(kernel.dims))
    assert stem["parameters"] == int(np.prod(kernel.dims)) + kernel.dims[0]


def test_without_need_nothing_changes(converted: Path, tmp_path: Path) -> None:
    result = convert(tmp_path / "out", "--generator", converted / "generator.pt", "--max-drop", "5")
    assert result.exit_code == 0, result.output
    found = report_of(tmp_path / "out")["mixed_precision"]
    assert (found["by"], found["met"], found["kept_float"], found["tried"]) == ("prediction", True, [], 1)
    assert found["int8_macs_share"] == pytest.approx(100)
    written = [(folder / "model.int8.onnx").read_bytes() for folder in (converted, tmp_path / "out")]
    assert written[0] == written[1]


def test_the_spoilt_layer_is_kept_in_float_and_its_price_told(converted: Path, tmp_path: Path) -> None:
    flags = spoilt(converted, tmp_path / "bad.json", lambda name: 0.02 if name == "relu_5" else 1.0)
    result = convert(tmp_path / "out", *flags, *VAL, "--max-drop", "1")
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path / "out")
    found = report["mixed_precision"]
    assert (found["by"], found["met"], found["target"]) == ("val", True, 1.0)
    assert found["all_int8_drop"] > 10
    (kept,) = found["kept_float"]
    assert kept["layers"] == ["conv2d_7"]
    assert kept["drop_without"] == found["all_int8_drop"]
    assert found["int8_macs_share"] == pytest.approx(100 - kept["macs_share"])
    accuracy = report["accuracy"]
    assert accuracy["fp32_top1"] - accuracy["int8_top1"] == pytest.approx(found["drop"])
    assert next(row["name"] for row in report["sensitivity"]["layers"] if not row["int8"]) == "conv2d_7"
    assert "float: conv2d_7" in result.output
    quantized = {edge["tensor"] for edge in report["quantization"]["edges"]}
    assert "relu_5" not in quantized


def test_a_target_out_of_reach_exits_with_three_and_builds_the_best(converted: Path, tmp_path: Path) -> None:
    flags = spoilt(converted, tmp_path / "bad.json", lambda _: 0.01)
    result = convert(tmp_path / "out", *flags, *VAL, "--max-drop", "0.5")
    assert result.exit_code == 3, result.output
    assert "no choice that keeps 50 % of the multiply-adds in INT8" in result.output
    assert "MISSED" in result.output
    found = report_of(tmp_path / "out")["mixed_precision"]
    assert not found["met"]
    assert found["drop"] <= found["all_int8_drop"]
    assert found["int8_macs_share"] >= 50
    assert (tmp_path / "out" / "model.onnxruntime.onnx").exists()


def test_ranges_alone_tell_no_loss(converted: Path, tmp_path: Path) -> None:
    cache = ["--calibration-cache", converted / "calibration.json"]
    result = convert(tmp_path / "out", *cache, "--max-drop", "1")
    assert result.exit_code == 2
    assert "--generator" in result.output
    assert "--val" in result.output
    result = convert(tmp_path / "out", *cache)
    assert result.exit_code == 0
    assert "which layers cost most was not measured" in result.output
    assert report_of(tmp_path / "out")["sensitivity"] is None
