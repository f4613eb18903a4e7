"""What PyTorch's own errors come down to, in a line for the user."""

import re
from collections.abc import Iterator

from zscgan_common.text import first_line

_OPERATOR = re.compile(r"target=torch\.ops\.([\w.]+)|op='([\w.]+)', overload='(\w+)'")


def exporter_refusal(error: BaseException) -> str:
    """Why torch.onnx failed: the operator that it could not write, which only a cause of ``error`` names."""
    causes = list(causes_of(error))
    found = next((match for cause in causes if (match := _OPERATOR.search(str(cause)))), None)
    if found is None:
        return first_line(causes[-1])
    operator = found[1] or f"{found[2]}.{found[3]}"
    if type(causes[-1]).__name__ == "DispatchError":
        return f"it has no ONNX for the operator {operator}"
    return f"it failed on the operator {operator}: {first_line(causes[-1])}"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it came from, the origin last."""
    while error is not None:
        yield error
        error = error.__cause__
