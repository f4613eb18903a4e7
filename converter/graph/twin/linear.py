"""Matrix products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import TENSOR_OPERATORS, enter_all, operator
from converter.graph.twin.values import Flag


def _binary(a: Tensor, b: Tensor) -> Tensor:
    raise NotImplementedError


enter_all(TENSOR_OPERATORS, {"MatMul": torch.matmul}, _binary)


@operator("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: Flag = 0,  # noqa: N803 - ONNX's attribute
    transB: Flag = 0,  # noqa: N803
) -> Tensor:
    a = a.t() if transA else a
    if alpha == beta == 1 and c is not None and c.ndim == 1:
        return F.linear(a, b if transB else b.t(), c)
    product = torch.matmul(a, b.t() if transB else b)
    product = product if alpha == 1 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1 else c * beta)


@operator("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)
