"""A conversion with ``--device cuda``, stage by stage, on fake CUDA tensors.

``tests/fake_cuda.py`` lists what these can't show. Of ``--qat`` NVIDIA's quantizers are the double: the real ones run
CUDA code of their own.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibrators.data.batches import TensorBatches
from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE
from calibrators.options import CalibrationOptions
from calibrators.ranges.calibrate import calibrate
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import sample_quality
from calibrators.zscgan.sample_sheet import save_picture
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator
from calibrators.zscgan.training import TrainingState, new_config, new_state, train_generator
from converter.graph.capture import FoldedGraph, graph_from_model, graph_from_onnx, observe
from converter.graph.devices import move
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.qat import data
from converter.qat.data import Samples
from converter.qat.export import graph_from_student
from converter.qat.fine_tune import new_tuning
from converter.qat.network import teacher_from_graph
from converter.qat.options import QATOptions
from converter.qat.training import descend_student, expected_of, score, step_loss
from converter.quantize.placement import place_quantizers
from converter.samples import GeneratorSamples
from converter.stages.baseline import fp32_baseline
from converter.trust.task.classes import Classes
from converter.workspace import Workspace
from examples.digits.model import digits_resnet
from tests.converter.graph.test_families import family_graph, family_model
from tests.converter.jobs import job_of
from tests.converter.networks import randomised
from tests.converter.qat import double
from tests.fake_cuda import Waits, backward, fake_cuda

CUDA = torch.device("cuda")
GAN = ZSCGANOptions(steps=1, batch=4, width=4, latent=4)
QAT = QATOptions(steps=1, backend="pytorch-quantization")
NETWORKS = ["resnet18", "densenet", "mobilenet_v2", "efficientnet_b0", "digits"]


@dataclass(frozen=True)
class Converted:
    """A network on fake CUDA, and what its conversion has so far."""

    model: nn.Module
    spec: InputSpec
    graph: FoldedGraph
    waits: Waits

    def generator(self) -> Ensemble:
        return Ensemble(
            new_state(new_config(self.spec, 10, GAN), replace(GAN, seed=seed), CUDA).generator
            for seed in (0, 1)
        )


@pytest.fixture(scope="module", params=NETWORKS)
def converted(request: pytest.FixtureRequest) -> Iterator[Converted]:
    """Each network captured for a GPU; the tests below go on from there.

    Capturing takes the time, and is the same for every device but for its last step. So two networks do it here, and
    the graphs of the others are those of ``test_families``, with that step.
    """
    name, spec = request.param, InputSpec((1, 8, 8) if request.param == "digits" else (3, 64, 64))
    with fake_cuda() as waits:
        if name in ("digits", "resnet18"):
            model = randomised(digits_resnet()) if name == "digits" else family_model(name)
            yield Converted(model, spec, graph_from_model(model.requires_grad_(False), spec, CUDA), waits)
        else:
            model, graph = copy.deepcopy(family_graph(name))
            move(model.requires_grad_(False), CUDA)
            move(graph.module, CUDA)
            yield Converted(model, spec, graph, waits)


def test_capture(converted: Converted) -> None:
    x = torch.zeros(3, *converted.spec.shape, device=CUDA)
    for network in (converted.model, converted.graph.module):
        assert network(x).device == x.device
        assert {part.device.type for part in network.state_dict().values()} == {"cuda"}
    assert len(converted.graph.onnx.graph.initializer) > 20  # real ones: a fake tensor can't be written


def test_a_step_of_the_generator_waits_once(converted: Converted) -> None:
    config = new_config(converted.spec, 10, GAN)
    state = new_state(config, GAN, CUDA)
    waited: list[list[str]] = []
    converted.waits.calls.clear()

    def on_step(_state: TrainingState) -> None:
        waited.append(converted.waits.calls.copy())
        converted.waits.calls.clear()

    train_generator(converted.model, converted.spec, 10, GAN, state=state, on_step=on_step)
    assert waited == [["to cpu"]]
    assert all(weight.grad is not None and weight.grad.is_cuda for weight in state.generator.parameters())


def test_ranges_of_samples_and_of_images(converted: Converted, tmp_path: Path) -> None:
    def activations(x: Tensor) -> dict[str, Tensor]:
        return observe(converted.graph.module, x.to(CUDA), converted.graph.activations)[1]

    samples = SyntheticBatches(converted.generator(), 2, 2, seed=0)
    images = TensorBatches(torch.zeros(2, *converted.spec.shape), torch.zeros(2, dtype=torch.int64), 2)
    for batches, algorithm in ((samples, "percentile"), (images, "max")):
        found = calibrate(activations, batches, options=CalibrationOptions(algorithm, samples=2))
        assert found.amax.keys() == set(converted.graph.activations)
    assert sample_quality(converted.model, samples).bn_kl == 1.0
    save_picture(samples.generator, tmp_path / "samples.png", seed=0)


def test_a_step_of_the_fine_tuning_waits_once(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    double.install(monkeypatch)
    plan = place_quantizers(converted.graph.onnx)
    state = new_tuning(converted.graph, plan, dict.fromkeys(plan.observed, 1.0), QAT)
    samples = GeneratorSamples(TrainedGenerator(converted.generator(), "", (), 0.0))
    task, teacher, source = Classes(10), teacher_from_graph(converted.graph, plan), Samples(samples, 4, 0)
    converted.waits.calls.clear()
    loss = step_loss(state.student, teacher, task, source, 0, QAT, SINGLE)
    descend_student(state, loss, QAT, SINGLE)
    assert converted.waits.calls == ["to cpu"]
    assert all(value.grad is not None and value.grad.is_cuda for value in state.student.learned().values())
    if converted.spec.shape != (1, 8, 8):  # the rest is the same for all networks
        return
    monkeypatch.setattr(data, "inputs_for", lambda batch: batch)
    expected = expected_of(teacher, source, SINGLE)
    assert score(state.student, expected, task, source, QAT, SINGLE).agreement == 100.0
    state.restore(state.dump())
    tuned = graph_from_student(converted.graph, state.student)
    assert tuned.onnx.ByteSize() == converted.graph.onnx.ByteSize()


class Places(nn.Module):
    """Makes numbers as it runs, where its input lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("table", torch.rand(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[2], device=x.device)
        x = self.norm(self.conv(x)) + self.table[places].T[:, :, None] + torch.linspace(0, 1, 8).to(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.slow
def test_what_a_forward_makes_is_made_on_the_gpu(tmp_path: Path) -> None:
    """Also that of a program which was exported on a CPU."""
    spec, path = InputSpec((3, 8, 8)), tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Places().eval(), (torch.zeros(2, 3, 8, 8),)), path)
    loaded = load_model(ModelOptions(str(path), preset="unit"))
    assert loaded.onnx is not None
    with fake_cuda():
        x = torch.zeros(3, 3, 8, 8, device=CUDA)
        model = Places()
        assert graph_from_model(model, spec, CUDA).module(x).is_cuda
        assert model(x).is_cuda
        assert graph_from_onnx(loaded.onnx, spec, CUDA).module(x).is_cuda
        assert move(loaded.module, CUDA)(x).is_cuda


def test_fp32_on_val_runs_on_the_gpu(tmp_path: Path) -> None:
    """In a workspace without model.fp32.onnx, so that nothing else can run it."""
    np.savez(tmp_path / "val.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 0, 0]))
    spec = InputSpec((1, 8, 8))
    val = images_from_path(tmp_path / "val.npz", spec)
    with fake_cuda():
        teacher = Teacher(
            randomised(digits_resnet()).to(CUDA),
            spec,
            {"logits": torch.zeros(4, 10)},
            None,
            "digits",
            "",
            0,
            9,
        )
        job = job_of(teacher=teacher, device=CUDA, val=val, workspace=Workspace(tmp_path))
        baseline = fp32_baseline(job)
    assert baseline is not None
    assert baseline.accuracy == 75.0  # all fake logits are 1, and the first of equal ones is chosen
    assert job.console.stages[-1].detail == "FP32 top-1 75.00 % on 4 images, by PyTorch on the GPU"


def test_mixing_devices_is_an_error_here_as_on_a_gpu() -> None:
    with fake_cuda() as waits:
        x = torch.zeros(2, 3).to(CUDA)
        with pytest.raises(RuntimeError, match="found at least two devices"):
            x + torch.zeros(3)
        assert (x > 0).any()
        assert float(x.sum()) == 1.0
        x.cpu().numpy()
        assert waits.calls == ["to cuda", "item", "item", "to cpu"]


def test_the_backward_pass_without_the_engine_gives_its_gradients() -> None:
    model, x = randomised(digits_resnet()).train(), torch.rand(4, 1, 8, 8)
    model(x).square().sum().backward()
    expected = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    backward(model(x).square().sum())
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
