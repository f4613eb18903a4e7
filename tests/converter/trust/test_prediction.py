"""The prediction by hand, against a simulation of its assumptions, its properties, and in a whole conversion."""

import json
from collections.abc import Callable, Iterator
from math import cosh, log
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from calibrators.data.batches import TensorBatches
from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.sampling import generator_from_document, load_torch
from converter.cli.convert import command
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.report.document import plain
from converter.samples import GeneratorSamples
from converter.trust.answers import network_of
from converter.trust.prediction import (
    CLEARER,
    DIMMER,
    LEAST_WIDTH,
    SURENESS_POWER,
    WIDTH,
    BorderBatches,
    Margins,
    Prediction,
    border_inputs,
    flipped,
    lost,
    margins_from_logits,
    mixed,
    predict,
    predict_from_logits,
    procedural_inputs,
    sureness,
    taken_margins,
)
from converter.trust.task.classes import Classes
from converter.trust.task.embedding import Embedding
from engines.base import Engine
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.digits import INPUT, MODEL, quick_conversions

MARGINS = Margins(width=4.0, slope=1.0)


def noisy(
    scale: float, inputs: int = 200, classes: int = 6
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """FP32 logits, and the same with noise."""
    random = np.random.default_rng(0)
    fp32, noise = random.normal(size=(2, inputs, classes)).astype(np.float32)
    return 3 * fp32, 3 * fp32 + np.float32(scale) * noise


def test_what_is_taken_of_each_margin_by_hand() -> None:
    # margins of 2, 2 and 4 in FP32; INT8 leaves 0.5 to the first, makes the second 5, and reverses the third by 1
    fp32 = np.float32([[3, 1], [0, 2], [4, 0]])
    int8 = np.float32([[2, 1.5], [-2, 3], [0, 1]])
    deviation = (1 + 1 + 2) / 3
    assert taken_margins(fp32, int8) == pytest.approx(np.array([1.5, 0, 5]) / deviation)


def test_the_margins_of_real_images_follow_those_of_procedural_ones() -> None:
    logits = np.float32([[0, 1, 3], [5, 5, 2], [0, 4, 3], [9, 0, 1]])  # margins of 2, 0, 1 and 8
    expected = 1.5 / np.float64(logits).std(axis=1).mean() * 1.5**SURENESS_POWER
    assert sureness(logits) == pytest.approx(expected)
    assert margins_from_logits(logits).width == pytest.approx(WIDTH * expected)
    assert margins_from_logits(8 * logits + 1).width == pytest.approx(WIDTH * expected * 8**SURENESS_POWER)
    assert margins_from_logits(np.zeros((4, 3), np.float32)).width == LEAST_WIDTH


@pytest.mark.parametrize(("batch", "count"), [(64, 512), (32, 256), (16, 128)])
def test_procedural_inputs_are_fewer_where_they_are_large(batch: int, count: int) -> None:
    inputs = procedural_inputs(InputSpec((1, 4, 4)), batch, 0)
    assert (inputs.num_samples, inputs.batch_size) == (count, batch)


def test_prediction_by_hand() -> None:
    fp32, int8 = np.float32([[3, 1], [0, 2]]), np.float32([[2, 1.5], [1, 0]])  # takes 1.5 and 3 deviations
    found = predict_from_logits(fp32, int8, MARGINS)
    assert found.disagreement == pytest.approx(100 * (1.5 / 4 + 3 / 4) / 2)
    assert found.drop == pytest.approx(100 * (log(cosh(1.5)) + log(cosh(3))) / 2 / 4)
    assert found.inputs == 2


def test_interval_by_hand() -> None:
    """Without spread among the inputs there is no sampling error: what remains are the factors."""
    fp32, int8 = np.float32([[3, 1]] * 5), np.float32([[2, 0.6]] * 5)  # takes 0.6 deviations
    found = predict_from_logits(fp32, int8, MARGINS)
    assert found.disagreement == pytest.approx(15)
    assert (found.low, found.high) == pytest.approx((15 / CLEARER, 15 * DIMMER))
    assert found.drop_high == pytest.approx(100 * log(cosh(0.6 * DIMMER)) / 4)


def figures(found: Prediction) -> list[float]:
    """The estimates and the ends of their intervals."""
    return [found.disagreement, found.low, found.high, found.drop, found.drop_low, found.drop_high]


def test_no_more_can_be_taken_than_there_is() -> None:
    fp32 = np.float32([[9, 0, 0]])
    found = predict_from_logits(fp32, -1000 * fp32, MARGINS)
    assert found.disagreement == found.high == 100
    assert found.drop == pytest.approx(100 * log(cosh(4)) / 4)
    assert found.drop_high <= 100
    assert np.isfinite(figures(found)).all()


def test_estimates_are_what_a_simulation_of_the_assumptions_gives() -> None:
    """Images with even margins that are right as often as their margin says; INT8 takes t of each."""
    random, images = np.random.default_rng(0), 400_000
    margins = random.uniform(0, MARGINS.width, images)
    right = (
        random.random(images) < (1 + np.tanh(MARGINS.slope * margins)) / 2
    )  # else the second class is right
    for taken in (0.1, 1.0, 3.0):
        changed = margins < taken
        drop = np.mean(right & changed) - np.mean(~right & changed)
        assert flipped(np.array([taken]), MARGINS)[0] == pytest.approx(np.mean(changed), abs=0.003)
        assert lost(np.array([taken]), MARGINS)[0] == pytest.approx(drop, abs=0.004)


def test_identical_logits_disagree_nowhere() -> None:
    fp32, _ = noisy(0)
    found = predict_from_logits(fp32, fp32, MARGINS)
    assert (found.disagreement, found.drop) == (0, 0)
    assert found.low <= 0 <= found.high
    constant = np.zeros((4, 3), np.float32)
    assert predict_from_logits(constant, constant, MARGINS).high == 0


def test_more_noise_never_gives_less() -> None:
    found = [predict_from_logits(*noisy(scale), MARGINS) for scale in (0, 0.01, 0.1, 0.3, 1, 3, 10)]
    for name in ("disagreement", "drop", "high", "drop_high"):
        values = [getattr(prediction, name) for prediction in found]
        assert values == sorted(values)
        assert values[1] > 0


def test_estimates_lie_in_their_intervals_within_0_and_100() -> None:
    for scale in (0.01, 0.3, 3, 100):
        found = predict_from_logits(*noisy(scale), MARGINS)
        assert 0 <= found.low <= found.disagreement <= found.high <= 100
        assert 0 <= found.drop_low <= found.drop <= found.drop_high <= 100
        assert found.drop <= found.disagreement


def test_order_of_inputs_and_scale_and_offset_of_logits_change_nothing() -> None:
    fp32, int8 = noisy(0.5)
    expected = figures(predict_from_logits(fp32, int8, MARGINS))
    order = np.random.default_rng(1).permutation(len(fp32))
    assert figures(predict_from_logits(fp32[order], int8[order], MARGINS)) == pytest.approx(expected)
    assert figures(predict_from_logits(8 * fp32, 8 * int8, MARGINS)) == pytest.approx(expected)
    assert figures(predict_from_logits(fp32 + 2, int8 + 2, MARGINS)) == pytest.approx(expected, rel=1e-5)


def test_a_single_logit_is_one_of_two_classes() -> None:
    fp32, int8 = np.float32([[2.0], [-1.0]]), np.float32([[1.5], [0.5]])
    zeros = np.zeros((2, 1), np.float32)
    whole = np.hstack([zeros, fp32])
    both = predict_from_logits(whole, np.hstack([zeros, int8]), margins_from_logits(whole))
    batches = TensorBatches(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64), batch_size=2)
    assert predict(lambda _: (fp32,), lambda _: (int8,), Classes(1), batches, batches) == both
    assert both.disagreement > 0


def test_a_third_class_does_not_count() -> None:
    fp32, int8 = np.float32([[5, 3, 0]]), np.float32([[5, 4, 9]])
    assert taken_margins(fp32, int8)[0] == pytest.approx(1 / np.std([5, 3, 0]))


def test_mixtures_lie_between_the_samples_and_nearer_to_a_border() -> None:
    """A classifier whose logits are the pixels, on samples of one bright pixel each."""
    x = torch.eye(8).view(8, 8, 1, 1)
    found = mixed(x, torch.Generator().manual_seed(0))
    first, second = found.flatten(1).topk(2).values.T
    assert (first + second).tolist() == pytest.approx([1.0] * 8)
    assert found.flatten(1).argmax(1).tolist() == list(range(8))
    assert torch.equal(found[::2], x[::2])
    assert (first[1::2] - second[1::2] < 1).all()
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert torch.equal(x, torch.eye(8).view(8, 8, 1, 1))


def test_border_inputs_are_the_same_each_time_and_others_for_another_seed() -> None:
    samples = TensorBatches(torch.rand(10, 1, 2, 2), torch.arange(10), batch_size=4)
    first, again, other = (torch.cat([x for x, _ in BorderBatches(samples, seed)]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    batches = BorderBatches(samples, 0)
    assert (batches.num_samples, batches.batch_size) == (10, 4)
    assert {int(label) for _, y in batches for label in y} == {-1}


def test_networks_are_run_batch_by_batch() -> None:
    batches = TensorBatches(torch.rand(5, 3, 1, 1), torch.zeros(5, dtype=torch.int64), batch_size=2)
    done: list[int] = []
    fp32 = lambda x: x.reshape(len(x), -1)  # noqa: E731
    int8 = lambda x: fp32(x)[:, ::-1].copy()  # noqa: E731
    found = predict(lambda x: (fp32(x),), lambda x: (int8(x),), Classes(3), batches, batches, done.append)
    x = batches.x.flatten(1).numpy()
    assert found == predict_from_logits(x, x[:, ::-1].copy(), margins_from_logits(x))
    assert done == [2, 4, 5]


def test_what_chooses_no_class_has_no_prediction() -> None:
    batches = TensorBatches(torch.rand(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64), batch_size=2)
    same = lambda x: (x.reshape(len(x), -1),)  # noqa: E731
    assert predict(same, same, Embedding(3), batches, batches) is None


@pytest.fixture
def conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> Result:
        quick = ["--int8", "--calibrator", "max", "--no-html", "-o", "out"]
        return CliRunner().invoke(command, [*MODEL, *INPUT, *quick, *flags])

    with quick_conversions():
        yield run


def test_a_conversion_predicts_without_any_image(conversion: Callable[..., Result]) -> None:
    result = conversion("--gan-steps", "12", "--calib-samples", "64")
    assert result.exit_code == 0, result.output
    assert "  predicted  on real data another class on" in result.output

    found = json.loads(Path("out/report.json").read_text())["prediction"]
    assert found["confidence"] == 95
    assert found["inputs"] == 512
    assert 0 <= found["low"] <= found["disagreement"] <= found["high"] <= 100
    assert found["disagreement"] > 0

    document, teacher = load_torch(Path("out/generator.pt")), load_model(digits_options())
    trained = generator_from_document(
        document, Path("out/generator.pt"), document["fingerprint"], teacher.spec, torch.device("cpu")
    )
    batches = border_inputs(GeneratorSamples(trained), 512, 64, seed=2)
    low, high = (torch.tensor(bound).view(1, -1, 1, 1) for bound in (teacher.spec.low, teacher.spec.high))
    for x, _ in batches:
        assert (x >= low - 1e-6).all()
        assert (x <= high + 1e-6).all()
    fp32, int8 = (onnx_engine(name) for name in ("model.fp32.onnx", "model.onnxruntime.onnx"))
    with fp32, int8:
        procedural = procedural_inputs(teacher.spec, 64, 0)
        again = plain(predict(network_of(fp32), network_of(int8), Classes(10), batches, procedural))
    assert again.pop("known_error") == found.pop("known_error")
    assert again == pytest.approx(found, rel=1e-3)


def digits_options() -> ModelOptions:
    return ModelOptions(MODEL[0], arch=MODEL[2], input_shape=(1, 8, 8), mean=(0.305,), std=(0.376,))


def onnx_engine(name: str) -> Engine:
    return OnnxRuntimeEngine(Path("out") / name)
