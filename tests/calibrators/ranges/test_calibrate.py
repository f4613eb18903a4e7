import pytest
import torch

from calibrators.data.batches import TensorBatches
from calibrators.errors import CalibrationError
from calibrators.options import ALGORITHMS, CalibrationOptions
from calibrators.ranges.calibrate import calibrate
from calibrators.ranges.histogram import HistogramCollector
from calibrators.ranges.scales import DEAD_AMAX, is_valid_amax


def batches_of(samples: int = 10, batch_size: int = 4) -> TensorBatches:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, 3, 3, generator=generator)
    return TensorBatches(x, torch.zeros(samples, dtype=torch.int64), batch_size)


def observe(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input": x, "relu": x.relu(), "dead": (x - 100).relu(), "tiny": x * 1e-40}


def test_max_by_hand() -> None:
    batches = batches_of()
    result = calibrate(observe, batches, options=CalibrationOptions("max"))
    assert result.amax["input"] == float(batches.x.abs().max())
    assert result.amax["relu"] == float(batches.x.max())
    assert result.samples == 10


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dead_tensors_are_named_and_every_scale_is_valid(algorithm: str) -> None:
    result = calibrate(observe, batches_of(), options=CalibrationOptions(algorithm))
    assert result.dead == ("dead", "tiny")
    assert result.amax["dead"] == result.amax["tiny"] == DEAD_AMAX
    assert all(map(is_valid_amax, result.amax.values()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_batch_size_does_not_matter(algorithm: str) -> None:
    options = CalibrationOptions(algorithm, samples=7)
    results = [calibrate(observe, batches_of(batch_size=size), options=options) for size in (1, 3, 10)]
    assert results[0] == results[1] == results[2]
    assert results[0].samples == 7


def test_no_batch_is_run_in_vain_and_progress_is_told() -> None:
    ran: list[int] = []
    done: list[int] = []

    def counted(x: torch.Tensor) -> dict[str, torch.Tensor]:
        ran.append(len(x))
        return observe(x)

    calibrate(counted, batches_of(), options=CalibrationOptions(samples=6), on_batch=done.append)
    assert ran == [1, 4, 2]  # one to see how large the activations are
    assert done == [4, 6]


def test_a_cpu_holds_the_activations_of_a_few_inputs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def counted(x: torch.Tensor) -> dict[str, torch.Tensor]:
        ran.append(len(x))
        return observe(x)

    whole = calibrate(observe, batches_of(), options=CalibrationOptions("mse"))
    values = sum(activation[:1].numel() for activation in observe(batches_of(1).x).values())
    monkeypatch.setattr("calibrators.ranges.calibrate.VALUES_AT_ONCE", 3 * values)
    assert calibrate(counted, batches_of(), options=CalibrationOptions("mse")) == whole
    assert max(ran) == 3


def test_max_makes_no_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HistogramCollector, "collect", None)
    calibrate(observe, batches_of(), options=CalibrationOptions("max"))


def test_no_gradient_is_recorded() -> None:
    def watched(x: torch.Tensor) -> dict[str, torch.Tensor]:
        assert not torch.is_grad_enabled()
        return {"x": x}

    calibrate(watched, batches_of(), options=CalibrationOptions())


def test_no_inputs() -> None:
    with pytest.raises(CalibrationError, match="got no inputs; check --calib-data"):
        calibrate(observe, batches_of(0), options=CalibrationOptions())


def test_no_activations() -> None:
    with pytest.raises(CalibrationError, match="no layer to quantize"):
        calibrate(lambda x: {}, batches_of(), options=CalibrationOptions())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_is_refused_by_name(algorithm: str) -> None:
    with pytest.raises(CalibrationError, match="tensor 'broken'"):
        calibrate(lambda x: {"broken": x.log()}, batches_of(), options=CalibrationOptions(algorithm))
