"""``.pt2`` files and TorchScript archives, read without running code from them."""

import warnings
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from converter.errors import LoadError
from converter.load.pt2_safety import on_cpu, refuse_code
from converter.load.state_dict import restricted_pickles
from converter.load.torchscript_records import refuse_short_records
from zscgan_common.text import first_line


def program_from_pt2(path: Path, *, trust_pickle: bool) -> ExportedProgram:
    """The program of a ``.pt2`` file, on the CPU.

    An ExportedProgram may hold pickles, compiled libraries and expressions that PyTorch evaluates; unless
    ``trust_pickle``, a file with any that could run code is refused. Raises LoadError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deserialiser, about its own formats
            if trust_pickle:
                program = torch.export.load(on_cpu(path))
            else:
                refuse_code(path)
                with restricted_pickles():
                    program = torch.export.load(on_cpu(path))
    except LoadError:
        raise
    except Exception as error:  # the deserialiser fails in many ways on a damaged or newer file
        raise LoadError(
            f"{path} can't be read as an ExportedProgram by PyTorch {torch.__version__}: "
            f"{first_line(error)}; export it again with torch.export.save"
        ) from error
    _refuse_foreign(program.graph, path)
    return program


def script_from_archive(path: Path) -> torch.jit.ScriptModule:
    """The network of a TorchScript archive, traced or scripted, in eval mode and float32 on the CPU.

    Reading TorchScript runs no Python. Raises LoadError.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit.*", FutureWarning)
            warnings.filterwarnings("ignore", r".*torch\.jit.*", DeprecationWarning)
            refuse_short_records(path)
            script: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu").eval().float()
    except LoadError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as its pickles and its code can
        raise LoadError(f"{path} can't be read as TorchScript: {first_line(error)}") from error
    return script


def _refuse_foreign(graph: fx.Graph, path: Path) -> None:
    """Raise LoadError for an operation other than PyTorch's own on tensors, or one that touches files."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            allowed = node.target.namespace in ("aten", "prim", "prims") and "file" not in node.target._opname
        else:
            allowed = getattr(node.target, "__module__", "") in ("_operator", "math", "torch")
        if not allowed:
            raise LoadError(
                f"{path} calls {node.target}, which is no tensor operation of PyTorch; export it without"
            )
