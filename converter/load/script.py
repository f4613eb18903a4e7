"""TorchScript as ONNX.

PyTorch's exporter of TorchScript is deprecated, but public: it takes traced, scripted and frozen networks, and keeps
the names of weights. The way over an exported program would begin with a private converter, which takes fewer of them,
and end at an exporter all the same.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.onnx import TrainingMode

from converter.errors import CaptureError
from converter.graph.capture import BATCH, INPUT, OPSET, silent_exporters, without_notes
from zscgan_common.text import first_line

_INSTEAD = "give its state_dict with --arch file.py:callable"
_FAST_PATH = ("aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd")


def onnx_from_script(
    script: torch.jit.ScriptModule, x: Tensor, path: Path, names: Sequence[str], *, dynamic: bool
) -> onnx.ModelProto:
    """``script``, in eval mode, as ONNX with its batch norms and these ``names`` of its outputs.

    ``dynamic`` if it takes other batches than ``x``.

    Raises CaptureError for an operator that has no ONNX.
    """
    try:
        with TemporaryDirectory() as folder, _whole_exporter(), torch.no_grad():
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                script,
                (x,),
                file,
                dynamo=False,
                training=TrainingMode.PRESERVE,  # else batch norms are folded
                do_constant_folding=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_axes={name: {0: BATCH} for name in (INPUT, *names)} if dynamic else None,
            )
            model = without_notes(onnx.load(file))
    except Exception as error:  # the exporter, and TorchScript below it, have errors of many kinds
        hint = _INSTEAD
        if any(name in str(error) for name in _FAST_PATH):
            hint = f"trace it again after torch.backends.mha.set_fastpath_enabled(False), or {_INSTEAD}"
        raise CaptureError(
            f"{path}: this TorchScript network can't be written as ONNX: {first_line(error)}; {hint}"
        ) from error
    return model


@contextmanager
def _whole_exporter() -> Iterator[None]:
    """PyTorch's exporter of TorchScript without its output, and with an ``unflatten`` whose rank is known.

    Its own loses the rank, and with it the attention of every network that is traced with nn.MultiheadAttention.
    """
    torch.onnx.register_custom_op_symbolic("aten::unflatten", _unflatten, OPSET)  # type: ignore[attr-defined]
    try:
        with silent_exporters(), _without_native_log():
            yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::unflatten", OPSET)  # type: ignore[attr-defined]


@contextmanager
def _without_native_log() -> Iterator[None]:
    """The graph that the exporter refuses is printed by C++, past sys.stdout, and can't be switched off."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    torch._C._jit_set_onnx_log_output_stream("stderr")
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        torch._C._jit_set_onnx_log_output_stream("stdout")
        os.close(stderr)
        os.close(nowhere)


def _unflatten(g: Any, x: Any, dim: Any, sizes: Any) -> Any:
    """``x.unflatten(dim, sizes)`` as a Reshape."""
    from torch.onnx import symbolic_helper

    rank = symbolic_helper._get_tensor_rank(x)
    assert rank is not None  # of a network with an input of known shape
    axis = symbolic_helper._maybe_get_const(dim, "i") % rank
    sizes = symbolic_helper._unpack_list(sizes)

    def constant(*numbers: int) -> Any:
        return g.op("Constant", value_t=torch.tensor(numbers))

    before = [constant(*[0] * axis)] if axis else []
    within = [g.op("Reshape", size, constant(1)) for size in sizes]
    behind = [g.op("Shape", x, start_i=axis + 1)] if axis + 1 < rank else []
    result = g.op("Reshape", x, g.op("Concat", *before, *within, *behind, axis_i=0))
    result.setType(x.type().with_sizes([None] * (rank + len(sizes) - 1)))
    return result
