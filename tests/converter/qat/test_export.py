"""What is written is what was trained: the student beside ONNX Runtime running the Q/DQ model, operator by operator."""

from dataclasses import replace

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from converter.qat.export import graph_from_student
from converter.qat.fine_tune import fine_tune_graph
from converter.quantize.qdq import qdq_from_onnx
from tests.converter.networks import Residual, Sequence, Shared, Upsampling
from tests.converter.qat.cases import OPTIONS, TASK, case, fresh, noise_for
from tests.converter.qat.test_network import assert_same_logits
from tests.converter.reference import inputs_of, run_onnx

EIGHT_BITS = replace(OPTIONS, steps=6, num_bits=8, learning_rate=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("network", [Residual, Sequence, Shared, Upsampling])
def test_the_fine_tuned_network_is_what_onnxruntime_runs(network: type[nn.Module]) -> None:
    graph, plan, amax = case(network)
    tuned = fine_tune_graph(graph, plan, amax, TASK, noise_for(network), EIGHT_BITS)
    exported = graph_from_student(graph, tuned.student)
    model = qdq_from_onnx(exported.onnx, plan, tuned.student.amax())
    onnx.checker.check_model(model, full_check=True)
    x = inputs_of(network)
    with torch.no_grad():
        (ours,) = tuned.student(x)
        assert torch.allclose(exported.module(x), torch.from_numpy(run_onnx(exported.onnx, x)[0]), atol=1e-4)
    assert_same_logits(ours, torch.from_numpy(run_onnx(model, x)[0]))


@pytest.mark.slow
def test_both_forms_get_every_trained_parameter_and_the_original_stays() -> None:
    graph, _, _ = case()
    before = graph.onnx.SerializeToString()
    student = fresh().student
    with torch.no_grad():
        for value in student.learned().values():
            value.add_(0.5)
    exported = graph_from_student(graph, student)
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.onnx.graph.initializer}
    for name, value in graph.module.named_parameters():
        changed = exported.module.get_parameter(name).detach()
        assert torch.equal(changed, value.detach() + 0.5)
        assert torch.equal(torch.tensor(initializers[name]), changed)
    assert graph.onnx.SerializeToString() == before
