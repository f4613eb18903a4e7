"""A folder as MODEL: which of its files hold the weights, and what describes them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import LoadError
from zscgan_common.text import cut, first_line, shortened

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
_DEEPSPEED = "mp_rank_00_model_states.pt"
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".pt2", ".ckpt", ".th", ".onnx", ".tar")
_BESIDE = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args", "sampler")
"""How files begin that Trainer and accelerate save beside the weights."""
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_EXPECTED = (
    "expected model.safetensors or pytorch_model.bin with the config.json of timm or transformers, or exactly one "
    "checkpoint"
)
_FOREIGN = (
    (
        "saved_model.pb",
        "a SavedModel of TensorFlow: export it as ONNX with python -m tf2onnx.convert --saved-model",
    ),
    ("*.pdmodel", "a network of PaddlePaddle: export it as ONNX with paddle2onnx"),
    ("*.pdiparams", "a network of PaddlePaddle: export it as ONNX with paddle2onnx"),
    (
        "*.distcp",
        "a distributed checkpoint of PyTorch: join it first, python -m torch.distributed.checkpoint.format_utils "
        "dcp_to_torch DIR FILE",
    ),
    ("model_index.json", "a pipeline for diffusion, of several networks"),
    ("Manifest.json", "a Core ML package: convert the network that it was made from"),
    (
        "adapter_config.json",
        "an adapter (LoRA) without the network: merge it first, with merge_and_unload() of peft",
    ),
)


@dataclass(frozen=True)
class ModelFiles:
    """What MODEL is read from: the file with the weights, or several that share them, and the folder that describes it.

    ``described`` is the folder of the files in ``descriptions``, which count for the digest where MODEL is a folder.
    """

    weights: tuple[Path, ...]
    described: Path
    descriptions: tuple[Path, ...] = ()


def files_of(path: Path) -> ModelFiles:
    """The files to read for MODEL ``path``; raises LoadError for a folder without weights, or with several networks."""
    if not path.is_dir():
        return ModelFiles((path,), path.parent)
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror or error}") from error
    descriptions = tuple(entry for entry in entries if entry.name in _DESCRIPTIONS)
    weights = _shards(path) or _named(path, entries)
    if not weights:
        _refuse_foreign(path)
        weights = _only(path, entries)
    return ModelFiles(weights, path, descriptions)


def _named(path: Path, entries: list[Path]) -> tuple[Path, ...]:
    """The weights where Hugging Face, timm, accelerate or DeepSpeed put them."""
    names = {entry.name for entry in entries}
    if "adapter_config.json" in names:
        return ()
    found = next((name for name in _WEIGHTS if name in names), None)
    if found is not None:
        return (path / found,)
    step = _text(path / "latest")
    places = [path, *([path / step] if step else []), path / "pytorch_model"]
    return next(((place / _DEEPSPEED,) for place in places if (place / _DEEPSPEED).is_file()), ())


def _text(path: Path) -> str:
    """What DeepSpeed's ``latest`` says, a folder's name; empty without."""
    try:
        return Path(path.read_text(encoding="utf-8").strip()).name
    except (OSError, ValueError):
        return ""


def _shards(path: Path) -> tuple[Path, ...]:
    """The files that share the weights by an index, all of which have to be there."""
    index = next(
        (path / f"{name}.index.json" for name in _WEIGHTS if (path / f"{name}.index.json").is_file()), None
    )
    if index is None or (path / index.name.removesuffix(".index.json")).is_file():
        return ()
    places = json_from(index).get("weight_map")
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(name, str) for name in places.values())
    ):
        raise LoadError(f"{index} has no weight_map of tensors and files; copy or download it again")
    shards = tuple(path / Path(name).name for name in sorted(set(places.values())))
    absent = [shortened(shard.name, 80) for shard in shards if not shard.is_file()]
    if absent:
        raise LoadError(
            f"{path} lacks {len(absent)} of the {len(shards)} files that share the weights: {cut(absent, 3)}; "
            f"{index.name} names them: download them too"
        )
    return shards


def _refuse_foreign(path: Path) -> None:
    for pattern, what in _FOREIGN:
        if next(path.glob(pattern), None) is not None:
            raise LoadError(f"{path} is {what}; {_EXPECTED}")
    graphs = sorted(path.glob("*.xml"))
    if graphs and graphs[0].with_suffix(".bin").is_file():
        raise LoadError(
            f"{path} is a network of OpenVINO: convert the ONNX file that it was made from; {_EXPECTED}"
        )


def _only(path: Path, entries: list[Path]) -> tuple[Path, ...]:
    """The one checkpoint of a folder without any usual name."""
    files = [e for e in entries if e.suffix in _SUFFIXES and e.is_file() and not e.name.startswith(_BESIDE)]
    if len(files) == 1:
        return (files[0],)
    if files:
        names = [shortened(file.name, 80) for file in files]
        raise LoadError(f"{path} holds {len(files)} checkpoints ({cut(names, 4)}); type one: {files[0]}")
    inside = next(_folders_with_weights(entries), None)
    hint = f"; there are weights in {inside}: type that" if inside is not None else ""
    held = cut([shortened(entry.name, 80) for entry in entries], 6) or "nothing"
    raise LoadError(f"{path} is a folder without weights: it holds {held}; {_EXPECTED}{hint}")


def _folders_with_weights(entries: list[Path]) -> Iterator[Path]:
    """Folders inside with weights, such as Trainer's ``checkpoint-500``, the last first."""
    for entry in reversed(entries):
        if entry.is_dir() and any((entry / name).is_file() for name in _WEIGHTS):
            yield entry


def json_from(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises LoadError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged ({first_line(error)}); copy or download it again") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} holds a {type(content).__name__}; expected an object, {{...}}")
    return content
