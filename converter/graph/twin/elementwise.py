"""Arithmetic, comparisons and logic, one element at a time."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.graph.twin.table import TENSOR_OPERATORS, enter_all, operator
from converter.graph.twin.values import Flag, Number, as_number


def _unary(x: Tensor) -> Tensor:
    raise NotImplementedError


def _binary(a: Tensor, b: Tensor) -> Tensor:
    raise NotImplementedError


_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
enter_all(TENSOR_OPERATORS, _UNARY, _unary)
enter_all(TENSOR_OPERATORS, _BINARY, _binary)


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    return x


@operator("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: Flag = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow")
def power(x: Tensor, exponent: Number) -> Tensor:
    result: Tensor = torch.pow(x, as_number(exponent))
    return result.to(x.dtype)


@operator("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Max")
def maximum(*values: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, values)


@operator("Min")
def minimum(*values: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, values)


@operator("Sum")
def total(*values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values)


@operator("Mean")
def mean(*values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


@operator("IsInf")
def isinf(x: Tensor, *, detect_negative: Flag = 1, detect_positive: Flag = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    return torch.isneginf(x) if detect_negative else torch.isposinf(x) & bool(detect_positive)


@operator("Clip")
def clip(
    x: Tensor,
    min: Number | None = None,  # noqa: A002 - ONNX's attribute
    max: Number | None = None,  # noqa: A002
) -> Tensor:
    low, high = (None if bound is None else as_number(bound) for bound in (min, max))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else torch.clamp(x, min=low)
        return x if high is None else torch.clamp(x, max=high)
    return x if low is None and high is None else torch.clamp(x, low, high)
