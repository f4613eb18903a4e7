"""One line out of PyTorch's errors."""

from itertools import pairwise

from converter.graph.export_errors import exporter_refusal
from zscgan_common.text import first_line


def chain(*errors: Exception) -> Exception:
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_first_line_has_no_colours() -> None:
    assert (
        first_line(ValueError("\n \x1b[96mThis is step 3/3\x1b[0m of it:\nmore")) == "This is step 3/3 of it"
    )
    assert first_line(ValueError()) == "ValueError"


def test_the_operator_is_in_a_cause() -> None:
    translating = RuntimeError(
        "Error when translating node %x : call_function[target=torch.ops.aten.x.y](args"
    )
    error = chain(RuntimeError("Failed.\nNext"), translating, ValueError("\x1b[1mno axis\x1b[0m\nmore"))
    assert exporter_refusal(error) == "it failed on the operator aten.x.y: no axis"
    named = chain(RuntimeError("Failed"), KeyError("<OpOverload(op='mine.twice', overload='default')>"))
    assert exporter_refusal(named).startswith("it failed on the operator mine.twice.default: ")
    assert exporter_refusal(chain(RuntimeError("Failed"), ValueError("out of disk"))) == "out of disk"
