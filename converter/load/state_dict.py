"""Weights out of a file, without running anything that the file says."""

import builtins
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from converter.errors import LoadError
from converter.load.metadata import StoredArray, safe_globals
from converter.load.user_module import on_sys_path
from zscgan_common.text import first_line, shortened

State = dict[str, Tensor]
Kind = Literal["weights", "safetensors", "torchscript", "exported", "onnx"]

_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and AveragedModel; torch.compile
_FOREIGN = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file (Keras?): export it as ONNX with python -m tf2onnx.convert"),
    (b"GGUF", "a GGUF file, of a language model as a rule"),
    (b"ftrt", "a plan of TensorRT, which is already built for one GPU"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the file itself"),
    (b"<!doctype html", "a web page: the download did not give the file"),
    (b"<html", "a web page: the download did not give the file"),
)
_FOREIGN_SUFFIXES = {
    ".pb": "a graph of TensorFlow: export it as ONNX with python -m tf2onnx.convert",
    ".keras": "a network of Keras: export it as ONNX with model.export('model.onnx', format='onnx')",
    ".mlmodel": "a Core ML model: convert the network that it was made from",
    ".engine": "a plan of TensorRT, which is already built for one GPU",
    ".plan": "a plan of TensorRT, which is already built for one GPU",
    ".trt": "a plan of TensorRT, which is already built for one GPU",
    ".pdparams": "weights of PaddlePaddle: export the network as ONNX with paddle2onnx",
    ".pdmodel": "a graph of PaddlePaddle: export it as ONNX with paddle2onnx",
}
EXPECTED = (
    "expected a PyTorch state_dict (.pth, .pt, .th, .bin, .safetensors), a TorchScript archive, an "
    "ExportedProgram (.pt2), an ONNX model (.onnx), or a folder of timm or transformers with one of these"
)


def kind_of_file(path: Path) -> Kind:
    """What ``path`` holds, told from its first bytes and its zip directory; raises LoadError for the rest."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror}") from error
    if not head:
        raise LoadError(f"{path} is empty (0 bytes); {EXPECTED}")
    for magic, name in _FOREIGN:
        if head.lower().startswith(magic.lower()):
            raise LoadError(f"{path} is {name}; {EXPECTED}")
    if head[4:8] == b"TFL3":
        raise LoadError(
            f"{path} is a TensorFlow Lite file: convert the network that it was made from; {EXPECTED}"
        )
    if path.suffix in _FOREIGN_SUFFIXES:
        raise LoadError(f"{path} is {_FOREIGN_SUFFIXES[path.suffix]}; {EXPECTED}")
    if path.suffix == ".onnx":
        return "onnx"
    if head[4:8] == b"PTMF" or re.fullmatch(rb"ET\d\d", head[4:8]):
        raise LoadError(
            f"{path} was made for mobile (a flatbuffer of the lite interpreter or ExecuTorch); give the float "
            "state_dict, torch.save(model.state_dict(), 'weights.pth')"
        )
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size:
        return "safetensors"
    return "weights"


def _kind_of_zip(path: Path) -> Kind:
    """What a zip archive holds: TorchScript, an ExportedProgram or a ``torch.save`` of anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # what zipfile raises of a damaged directory has no common base
        raise LoadError(
            f"{path} is truncated or damaged ({first_line(error)}); copy or download it again"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if names and all(name.endswith(".npy") for name in names):
        raise LoadError(f"{path} is a NumPy archive (.npz), so data and no model; {EXPECTED}")
    if "constants.pkl" in inner:
        return "torchscript"
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return "exported"
    if "data.pkl" in inner:
        return "weights"
    raise LoadError(f"{path} is a zip archive without a model in it; {EXPECTED}")


def object_from_file(path: Path, *, trust_pickle: bool) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU.

    Without ``trust_pickle`` only tensors and plain containers are read (PyTorch's restricted unpickler),
    so no code of the file runs. What ``metadata`` names is passed over: training scripts like to store it. Raises
    LoadError.
    """
    try:
        importable = on_sys_path(Path.cwd()) if trust_pickle else nullcontext()
        with torch.serialization.safe_globals(safe_globals()), importable, warnings.catch_warnings():
            # Of pickle protocols and sparse tensors; what can't be read is refused below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        raise LoadError(_refusal(path, str(error))) from error
    except (AttributeError, ImportError) as error:
        if "__main__'" in str(error):
            raise LoadError(_of_a_script(path, str(error))) from error
        if isinstance(error, ImportError) and (error.name or "").startswith("ultralytics"):
            raise LoadError(_of_ultralytics(path, "its code can't be imported here")) from error
        raise LoadError(
            f"{path} needs code that can't be imported here: {error}; run from the folder that holds the "
            "model's code, or save its state_dict instead: torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror or error}") from error
    except NotImplementedError as error:  # pathlib's, of the paths of Windows elsewhere
        raise LoadError(
            f"{path} holds an object of another system ({first_line(error)}); where it was made, save its state_dict: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way that its opcodes can
        raise LoadError(
            f"{path} is truncated, damaged or no checkpoint ({first_line(error)}); {EXPECTED}"
        ) from error


def _refusal(path: Path, reason: str) -> str:
    """The message for a pickle that the restricted unpickler refused."""
    found = re.search(r"(?:Unsupported (?:global|class)[^:]*: )?GLOBAL (\w+(?:\.\w+)*)(?![\w.])", reason)
    # Damage makes names too; those of modules have a dot.
    if found is None or not ("." in found[1] or hasattr(builtins, found[1])):
        return f"{path} is truncated, damaged or no checkpoint; {EXPECTED}"
    if found[1].startswith(("fastai.", "fastcore.")):
        return (
            f"{path} is a whole Learner of fastai, written by learn.export() ({found[1]}); where fastai is installed, "
            "learn.save('weights', with_opt=False) writes the weights alone, which are recognised"
        )
    if found[1].startswith("ultralytics."):
        return _of_ultralytics(path, "reading it would run code from the file")
    return (
        f"{path} holds the Python object {found[1]}, not weights alone, and reading it would run code from "
        "the file; save the weights alone, torch.save(model.state_dict(), 'weights.pth'), or add "
        "--trust-pickle if you trust its source"
    )


def _of_ultralytics(path: Path, trouble: str) -> str:
    """The message for a whole network of Ultralytics."""
    return (
        f"{path} is a whole network of Ultralytics, and {trouble}; give its ONNX file, which `yolo export model={path} "
        "format=onnx dynamic=True` writes, or, where Ultralytics is installed, add --trust-pickle if you trust the "
        "file's source"
    )


def _of_a_script(path: Path, reason: str) -> str:
    """The message for a class that the script which saved the file defines itself."""
    found = re.search(r"attribute '([\w.]+)'", reason)
    name = found[1] if found else "a class"
    return (
        f"{path} needs {name} of the script that saved it (its __main__), which other programs can't import by that "
        "name. If the script is train.py, type in its folder: "
        f'python -c "from train import *; import torch; torch.save(torch.load({str(path.resolve())!r}, '
        "weights_only=False), 'importable.pth')\", and convert importable.pth there with --trust-pickle (the "
        "script's training must stand under if __name__ == '__main__')"
    )


def state_from_safetensors(path: Path) -> State:
    """Tensors of a safetensors file, which holds no code. Raises LoadError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror or error}") from error
    # What is no SafetensorError comes of sizes and types that the check of the header lets through.
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise LoadError(
            f"{path} is a truncated or damaged safetensors file, or of a type that PyTorch {torch.__version__} "
            f"lacks ({first_line(error)}); copy or download it again"
        ) from error


def tensors_of_state(entry: Mapping[Any, Any]) -> State:
    """The tensors of a mapping from names; NumPy's arrays become tensors."""
    arrays = {name: as_tensor(value) for name, value in entry.items()}
    return {str(name): value for name, value in arrays.items() if value is not None}


def as_tensor(value: object) -> Tensor | None:
    """``value`` as a tensor, or None for what is neither a tensor nor an array of numbers."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, StoredArray):
        return value.tensor()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value, order="C"))
    return None


def require_float_model(names: Iterable[str], state: State, path: Path) -> None:
    """Raise LoadError for weights of an integer network."""
    quantized = next((name for name, value in state.items() if value.is_quantized), None)
    if quantized is not None:
        raise LoadError(f"{path} is already quantized (tensor {quantized}); expected the float model")
    if any(name.endswith("._packed_params") for name in names):
        raise LoadError(f"{path} is already quantized (packed parameters); expected the float model")


def require_real(state: State, path: Path) -> None:
    """Raise LoadError for a tensor that can't become float32 as it is: sparse, complex, without data, packed."""
    for name, value in state.items():
        kind = "a tensor without data" if value.is_meta else str(value.dtype).removeprefix("torch.")
        if value.layout is not torch.strided:
            kind = str(value.layout).removeprefix("torch.")
        elif not value.is_meta and not value.is_complex() and _becomes_float32(value.dtype):
            continue
        raise LoadError(f"{path}: {shortened(name)} is {kind}; expected dense tensors of real numbers")


def _becomes_float32(dtype: torch.dtype) -> bool:
    """Whether PyTorch converts values of ``dtype``; some are only storage for kernels."""
    try:
        torch.empty(1, dtype=dtype).float()
    except (RuntimeError, TypeError):
        return False
    return True


def without_wrappers(state: State) -> State:
    """``state`` without the prefixes ``module.`` and ``_orig_mod.``, in whatever order they were put on.

    ``torch.compile`` leaves its own also inside of names, where a part of the network was compiled.
    """
    while True:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in state)), None)
        if prefix is None or not state:
            return {name.replace("._orig_mod.", "."): value for name, value in state.items()}
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def is_state(value: object) -> bool:
    """Whether ``value`` maps names to tensors (a non-tensor extra, as some layers store, does no harm)."""
    if not isinstance(value, Mapping) or not value:
        return False
    tensors = sum(
        isinstance(name, str) and isinstance(entry, Tensor | StoredArray | np.ndarray)
        for name, entry in value.items()
    )
    return tensors > 0 and tensors * 2 >= len(value)


@contextmanager
def restricted_pickles() -> Iterator[None]:
    """While inside, every ``torch.load`` is restricted to weights, also those that PyTorch itself makes."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
