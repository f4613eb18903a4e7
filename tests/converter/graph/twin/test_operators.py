"""Every operator against the cases that the onnx package has for it: inputs and outputs written by others."""

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case import base
from torch import Tensor

from converter.errors import UnsupportedOperatorError
from converter.graph.twin import twin_from_onnx
from converter.graph.twin.table import HOST_OPERATORS, TENSOR_OPERATORS
from tests.converter.graph.twin.models import one_node_model

# Worked out element by element in Python, which takes seconds; smaller ones stand for them.
SLOW = ("export_averagepool_3d_default", "export_lppool_3d_default", "export_maxpool_3d_default")

# Cases that a twin doesn't follow, and why.
ALLOWED = {
    "test_training_dropout_default": "a twin is a network at inference",
    "test_training_dropout_default_mask": "the same",
    "test_training_dropout": "the same",
    "test_training_dropout_mask": "the same",
    "test_reduce_max_empty_set": "PyTorch has no largest of nothing",
    "test_reduce_max_empty_set_bool": "the same",
    "test_reduce_min_empty_set": "the same",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime counts whole pixels, and so do we",
    "test_resize_downsample_scales_cubic_align_corners": "the same",
}
# What PyTorch computes with: larger unsigned integers it has, but can't add.
TYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "bfloat16", "float16", "float32", "float64"}
# No case of onnx, or only for an opset that is too old: compared with ONNX Runtime below.
NOT_IN_ONNX = {"GlobalLpPool", "Not"}
MICROSOFT = "com.microsoft"
OF_ONNXRUNTIME = {f"{MICROSOFT}.{name}" for name in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")}


@contextmanager
def without_slow_cases() -> Iterator[None]:
    original = base._Exporter.__init__

    def init(cls: Any, name: str, bases: Any, members: dict[str, Any]) -> None:
        original(cls, name, bases, {key: value for key, value in members.items() if key not in SLOW})

    base._Exporter.__init__ = init
    try:
        yield
    finally:
        base._Exporter.__init__ = original


@functools.cache
def cases() -> dict[str, Any]:
    """Name -> case of one node. What ``expanded`` cases write with other operators gives the same numbers."""
    with warnings.catch_warnings(), without_slow_cases():
        warnings.simplefilter("ignore")  # of NumPy, where a case computes infinities on purpose
        package = importlib.import_module("onnx.backend.test.case.node")
        for _, name, is_package in pkgutil.iter_modules(package.__path__):
            if not is_package:
                importlib.import_module(f"{package.__name__}.{name}")
    return {case.name: case for case in package._NodeTestCases if "_expanded" not in case.name}


def operators_of(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def as_tensor(value: Any) -> Tensor:
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.astype(np.float32)).bfloat16()
    return torch.tensor(np.ascontiguousarray(array).reshape(array.shape))


def is_foreign(value: Any) -> bool:
    """Whether ``value`` is no tensor, or one of a type that PyTorch doesn't compute with."""
    if not isinstance(value, np.ndarray | np.generic | onnx.TensorProto):
        return True
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return array.dtype.name not in TYPES


def assert_follows(case: Any) -> None:
    module = twin_from_onnx(case.model)
    for inputs, outputs in case.data_sets:
        results = module(*map(as_tensor, inputs))
        results = results if isinstance(results, tuple) else (results,)
        for ours, theirs in zip(results, map(as_tensor, outputs), strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            half = ours.dtype in (torch.float16, torch.bfloat16)
            rtol = {torch.float16: 4e-3, torch.bfloat16: 2e-2}.get(ours.dtype, case.rtol)
            atol = 1e-3 if half else 1e-6  # a last place of intermediate values around 1
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)


def outcome(case: Any) -> str:
    """``passed``, ``refused`` for what a twin refuses before it runs, ``foreign``, or ``allowed``."""
    if case.name in ALLOWED:
        return "allowed"
    values = [value for data in case.data_sets for side in data for value in side]
    if any(map(is_foreign, values)):
        return "foreign"
    try:
        assert_follows(case)
    except UnsupportedOperatorError:
        return "refused"
    return "passed"


@functools.cache
def outcomes() -> dict[str, str]:
    results = {}
    for name, case in cases().items():
        try:
            results[name] = outcome(case)
        except Exception as error:  # noqa: BLE001, PERF203 - all are shown together
            results[name] = f"{type(error).__name__}: {error}"
    return results


def test_every_case_passes_unless_a_reason_stands_above() -> None:
    expected = {"passed", "refused", "foreign", "allowed"}
    assert {name: result for name, result in outcomes().items() if result not in expected} == {}


def test_every_operator_of_the_table_passes_a_case() -> None:
    passed = set[str]()
    for name, result in outcomes().items():
        if result == "passed":
            passed |= operators_of(cases()[name].model)
    assert TENSOR_OPERATORS.keys() - passed == NOT_IN_ONNX | OF_ONNXRUNTIME


# Variants of operators in the table that a twin refuses, with a word of the message.
REFUSED = {
    "Attention": ("softcap", "outputs", "input", "left_window_size"),
    "BatchNormalization": ("training_mode",),
    "Cast": ("to=", "round_mode"),
    "Not": ("opset 7",),
    "Resize": ("tf_crop_and_resize",),
}


def test_of_operators_in_the_table_only_these_variants_are_refused() -> None:
    known = TENSOR_OPERATORS.keys() | HOST_OPERATORS.keys() | {"Constant"}
    for name, result in outcomes().items():
        model = cases()[name].model
        operators = operators_of(model)
        if result == "refused" and operators <= known:
            (refused,) = operators
            with pytest.raises(UnsupportedOperatorError) as error:
                twin_from_onnx(model)
            assert any(word in str(error.value) for word in REFUSED[refused])


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_to_fail_fails(name: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        assert_follows(cases()[name])


@pytest.mark.parametrize(
    ("operator", "attributes", "x"),
    [
        ("GlobalLpPool", {"p": 3}, np.linspace(-2, 3, 48, dtype=np.float32).reshape(2, 3, 4, 2)),
        ("Not", {}, np.array([[True, False, True]])),
    ],
)
def test_what_onnx_has_no_case_for_equals_onnx_runtime(operator: str, attributes: Any, x: Any) -> None:
    model = one_node_model(operator, [x], **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (theirs,) = session.run(None, {"x0": x})
    torch.testing.assert_close(twin_from_onnx(model)(torch.tensor(x)), torch.tensor(theirs))


@pytest.mark.parametrize(
    ("operator", "attributes", "inputs"),
    [
        ("Gelu", {}, 1),
        ("BiasGelu", {}, 2),
        ("FastGelu", {}, 1),
        ("FastGelu", {}, 2),
        ("QuickGelu", {"alpha": 1.5}, 1),
    ],
)
def test_operators_of_onnx_runtime_equal_it(operator: str, attributes: Any, inputs: int) -> None:
    given = [np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6), np.linspace(-1, 1, 6, dtype=np.float32)][
        :inputs
    ]
    model = one_node_model(operator, given, domain=MICROSOFT, **attributes)
    model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (theirs,) = session.run(None, {f"x{number}": value for number, value in enumerate(given)})
    ours = twin_from_onnx(model)(*map(torch.tensor, given))
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-6, rtol=1e-6)
