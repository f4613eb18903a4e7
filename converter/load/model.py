"""MODEL as a teacher: a network in eval mode, the shape of its input, and its outputs.

Weights are read without running code of the file (see ``checkpoint`` and ``pt2``); only ``--trust-pickle``
changes that. TorchScript runs no Python; its tensor operations do run.
"""

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from calibrators.data.batches import random_pixels
from calibrators.data.input_spec import InputSpec
from calibrators.fingerprint import fingerprint
from calibrators.zscgan.batch_norm import batch_norm_layers
from converter.errors import ArchitectureError, LoadError, OptionsError
from converter.graph.one_by_one import takes_one_image
from converter.graph.outputs import tensors_of
from converter.graph.tail import Tail
from converter.graph.twin import output_names
from converter.load.answer import outputs_of
from converter.load.bodies.index import TIMM
from converter.load.candidates import Candidate, candidates_of, variants
from converter.load.determinism import refuse_random
from converter.load.ends import orders
from converter.load.float_only import refuse_lowered
from converter.load.folder import ModelFiles, files_of
from converter.load.input_choice import NormalisationSource, choose_input
from converter.load.input_normalisation import white_pixel
from converter.load.input_size import sizes_that_run
from converter.load.input_spec import Origin, is_shape_known, shape_from_options
from converter.load.network import Built, network_for_state, network_from_name
from converter.load.normalisation import estimate_normalisation
from converter.load.onnx_file import OnnxSource, checked_source, source_from_onnx
from converter.load.options import ModelOptions
from converter.load.other_kinds import refuse_other_kinds
from converter.load.published import Published, published_beside, published_in
from converter.load.published_network import network_of_published
from converter.load.state_dict import (
    EXPECTED,
    Kind,
    State,
    is_state,
    kind_of_file,
    object_from_file,
    require_real,
    state_from_safetensors,
)
from converter.load.torch_export import program_from_pt2, script_from_archive
from converter.load.torch_source import (
    image_sizes,
    source_from_module,
    source_from_program,
    source_from_script,
)
from zscgan_common.text import first_line
from zscgan_common.warning_message import WarningMessage

PROBES = 4
"""Images whose outputs tell what these mean."""


@dataclass(frozen=True)
class Teacher:
    """The network to convert: float32 on the CPU, in eval mode, no parameter requires a gradient.

    ``sha256`` is of the file, or of the weights for a torchvision name. ``parameters`` counts single
    weights, ``bn_layers`` the batch norms with stored statistics. ``probe`` has the outputs, by name, for ``PROBES``
    images of random pixels, each less bright than the one before. ``notes`` are choices that the user should
    see, one line each; ``warnings`` are doubts about it and about what was typed, ``normalisation_from`` is what says
    the normalisation. ``onnx`` is the graph of a MODEL that holds one (ONNX, an exported program, TorchScript) or that
    chooses, whose twin ``module`` then is; both end before ``tail``.
    """

    module: nn.Module
    spec: InputSpec
    probe: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None
    name: str
    sha256: str
    parameters: int
    bn_layers: int
    notes: tuple[str, ...] = ()
    warnings: tuple[WarningMessage, ...] = ()
    normalisation_from: NormalisationSource = "typed"
    onnx: ModelProto | None = None
    tail: Tail | None = None

    @property
    def one_by_one(self) -> bool:
        """Whether the network takes one image alone; ``module`` takes any number, one by one where it has to."""
        return self.onnx is not None and takes_one_image(self.onnx)


@dataclass(frozen=True)
class _Network:
    """A network as it was read, and what its source says of the input; ``source`` is that of a file with a graph."""

    module: nn.Module
    origin: Origin
    notes: tuple[str, ...] = ()
    warnings: tuple[WarningMessage, ...] = ()
    source: OnnxSource | None = None


def load_model(options: ModelOptions) -> Teacher:
    """The teacher for ``options``, checked by one forward pass.

    Raises LoadError (ArchitectureError where weights and network don't fit) and OptionsError; each message
    names what was expected, what came and what to type.
    """
    path = Path(options.model)
    if _exists(path):
        files = files_of(path)
        sha256 = _sha256_of_files(files)
        network = _network_from_files(files, path, options, sha256)
        name = _name_of(path)
    else:
        module, origin = network_from_name(options)
        network = _Network(module, origin)
        sha256 = fingerprint(module.state_dict())
        name = options.model.removeprefix(TIMM)
    module, source = network.module.eval().float().requires_grad_(False), network.source
    origin = network.origin
    if not is_shape_known(options, origin):
        origin = replace(origin, tried=sizes_that_run(module))
    _check_weights(module, name)
    estimate = estimate_normalisation(module, shape_from_options(options, origin))
    chosen = choose_input(options, origin, estimate)
    spec, notes = chosen.spec, chosen.notes
    if source is None:
        source = _source_of_choice(module, path, spec)
    if source is not None:
        source = checked_source(source, spec, path)
        module = source.module.requires_grad_(False)
        notes = (source.freed, *notes) if source.freed else notes
        notes = (*notes, source.tail.describe()) if source.tail else notes
    probe = _probed(module, spec, source)
    return Teacher(
        module=module,
        spec=spec,
        probe=probe,
        class_names=_class_names(origin, probe),
        name=name,
        sha256=sha256,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        bn_layers=len(batch_norm_layers(module)),
        notes=network.notes + notes,
        warnings=network.warnings + chosen.warnings,
        normalisation_from=chosen.source,
        onnx=None if source is None else source.model,
        tail=None if source is None else source.tail,
    )


def _class_names(origin: Origin, probe: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The names that were published for the classes: of the released weights, or as many as the network has outputs."""
    if origin.weights is not None and not origin.assumed:
        return tuple(origin.weights.meta["categories"])
    names = None if origin.published is None else origin.published.class_names
    return names if names and any(output.shape[1:2] == (len(names),) for output in probe.values()) else None


def require_batch_norm(teacher: Teacher) -> None:
    """Raise LoadError where the teacher has no stored statistics for a generator to match."""
    if teacher.bn_layers == 0:
        raise LoadError(
            f"{teacher.name} has no batch norm with running statistics, and samples can't be made without "
            "them; leave --samples out for procedural images, or calibrate with real ones: --calib-data DIR"
        )


def _exists(path: Path) -> bool:
    """Whether there is a file or folder at ``path``; raises LoadError where that can't be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    return True


def _name_of(path: Path) -> str:
    """The file's name without its extension, also one such as ``.pth.tar``; a folder's whole name."""
    if path.is_dir():
        return path.resolve().name
    inner = Path(path.stem)
    return inner.stem if path.suffix == ".tar" and inner.suffix in (".pth", ".pt", ".ckpt") else path.stem


def _sha256_of_files(files: ModelFiles) -> str:
    """SHA-256 of the bytes of all ``files`` one after another; kind_of_file has the errors for what is not readable."""
    digest = hashlib.sha256()
    for path in files.weights:
        kind_of_file(path)
    try:
        for path in (*files.descriptions, *files.weights):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise LoadError(f"{path} can't be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _network_from_files(files: ModelFiles, path: Path, options: ModelOptions, sha256: str) -> _Network:
    """The network in MODEL's files: exported, scripted, pickled, or built around its weights."""
    first = files.weights[0]
    published = published_in(path) if path.is_dir() else published_beside(path)
    kind = kind_of_file(first)
    if kind in ("exported", "torchscript", "onnx"):
        if options.arch is not None:
            raise OptionsError(f"{first} brings its architecture; leave --arch {options.arch} out")
        source = _source_from_file(first, kind, options)
        origin = Origin(sizes=source.sizes, white=white_pixel(source.model), published=published)
        return _Network(source.module, origin, source.notes, source=source)
    if kind == "safetensors" or len(files.weights) > 1:
        state = {name: x for file in files.weights for name, x in _tensors_from(file, options).items()}
        candidates = variants(state)
    else:
        loaded = object_from_file(first, trust_pickle=options.trust_pickle)
        whole, where = _whole_module(loaded) if options.trust_pickle else (None, "")
        if whole is not None:
            _require_sound(whole, first)
        if whole is not None and options.arch is None:
            notes = (f"took the whole pickled network from the file{where}",)
            return _Network(whole, Origin(published=published), notes)
        candidates = candidates_of(loaded if whole is None else whole.state_dict(), first)
    return _network_for_candidates(candidates, first, options, published, sha256)


def _tensors_from(file: Path, options: ModelOptions) -> State:
    """The tensors of one of the files that share the weights."""
    if kind_of_file(file) == "safetensors":
        return state_from_safetensors(file)
    return candidates_of(object_from_file(file, trust_pickle=options.trust_pickle), file)[0].state


def _network_for_candidates(
    candidates: tuple[Candidate, ...],
    path: Path,
    options: ModelOptions,
    published: Published | None,
    sha256: str,
) -> _Network:
    """The network for the first of ``candidates`` that fits; raises the error of the likeliest where none does."""
    if options.arch is None:
        refuse_other_kinds(candidates[0].state, path)
    refused: ArchitectureError | None = None
    for candidate in candidates:
        require_real(candidate.state, path)
        try:
            if options.arch is None and published is not None and published.arch is not None:
                built = Built(*network_of_published(published, candidate.state))
            else:
                built = network_for_state(candidate.state, options.arch, sha256, candidate.words)
        except ArchitectureError as error:
            refused = refused or error
            continue
        origin = built.origin if published is None else replace(built.origin, published=published)
        return _Network(built.module, origin, candidate.notes + built.notes, built.warnings)
    raise refused or ArchitectureError(f"{path} holds no tensors; {EXPECTED}")


def _source_from_file(path: Path, kind: Kind, options: ModelOptions) -> OnnxSource:
    """The graph in a file that holds one."""
    if kind == "onnx":
        return source_from_onnx(path)
    if kind == "torchscript":
        refuse_lowered(path)
        shape = shape_from_options(options, Origin())
        return source_from_script(script_from_archive(path), path, shape)
    program = program_from_pt2(path, trust_pickle=options.trust_pickle)
    _, *sizes = image_sizes(program, path)
    return source_from_program(program, path, shape_from_options(options, Origin(sizes=tuple(sizes))))


def _whole_module(loaded: Any) -> tuple[nn.Module | None, str]:
    """A network that was pickled whole, also in a dictionary or inside a wrapper, and a word on where it was.

    Of several in a dictionary, the usual keys come first, then the one with the most layers: a loss is a module too.
    """
    if not isinstance(loaded, Mapping):
        return _unwrapped(loaded), ""
    found = {str(key): value for key, value in loaded.items() if isinstance(value, nn.Module)}
    if not found:
        return None, ""
    usual = (key for key in ("ema", "model", "net", "network") if key in found)
    key = next(usual, max(found, key=lambda key: len(list(found[key].modules()))))
    others = [str(name) for name, value in loaded.items() if is_state(value)]
    beside = f" and not the weights beside it ({', '.join(map(repr, others))})" if others else ""
    return _unwrapped(found[key]), f", its entry {key!r}{beside}"


def _require_sound(module: nn.Module, path: Path) -> None:
    """Raise LoadError for a module of a damaged pickle, which may lack what every module has."""
    try:
        module.eval().state_dict()
    except AttributeError as error:
        raise LoadError(f"the network in {path} is damaged: {first_line(error)}; copy it again") from error


def _unwrapped(loaded: Any) -> nn.Module | None:
    """The network inside DataParallel or ``torch.compile``, or None for what is no module."""
    while isinstance(loaded, nn.Module):
        inner = getattr(loaded, "_orig_mod", None) or (
            loaded.module
            if isinstance(loaded, nn.DataParallel | nn.parallel.DistributedDataParallel)
            else None
        )
        if inner is None:
            return loaded
        loaded = inner
    return None


def _check_weights(module: nn.Module, source: str) -> None:
    """Raise LoadError for weights that aren't finite as float32, or a negative variance in a batch norm."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise LoadError(
                f"{source}: {name} holds {bad} NaN or infinite values (as float32); did training diverge?"
            )
    for name, layer in batch_norm_layers(module).items():
        variance = layer.running_var
        if variance is not None and (variance < 0).any():
            raise LoadError(
                f"{name}.running_var holds a negative variance ({variance.min():.3g}); the file is damaged"
            )


def _source_of_choice(module: nn.Module, path: Path, spec: InputSpec) -> OnnxSource | None:
    """The graph of a network that may end in a choice; None for others. What fails is told of later."""
    x = random_pixels(spec, 2, 0)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = tensors_of(module(x))
            ordered = orders(module, x)
    except Exception:  # noqa: BLE001 - the network's forward is the user's code
        return None
    chosen = not all(output.is_floating_point() for output in outputs)
    if not (chosen or ordered) or any(output.shape[:1] != (2,) for output in outputs):
        return None
    source = source_from_module(module, path, spec)
    return source if chosen or source.tail is not None else None


def _probed(module: nn.Module, spec: InputSpec, source: OnnxSource | None) -> dict[str, Tensor]:
    """The outputs for ``PROBES`` images of random pixels, each less bright than the one before.

    Raises LoadError for anything but tensors with an entry an image, and for outputs that another run gives otherwise.
    """
    shape = "x".join(map(str, spec.shape))
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    black = torch.tensor(spec.low).view(1, -1, 1, 1)
    x = black + (random_pixels(spec, PROBES, 0) - black) * torch.linspace(1, 0, PROBES).view(-1, 1, 1, 1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = module(x)
            refuse_random(module, spec.shape)
    except LoadError:
        raise
    except Exception as error:  # the network's forward is the user's code
        if first is not None and first.in_channels != spec.shape[0]:
            raise LoadError(
                f"the network's first convolution takes {first.in_channels} channels, got an input of "
                f"{shape}; type --input-shape {first.in_channels}x{spec.shape[1]}x{spec.shape[2]}"
            ) from error
        _require_one_input(module, x, error)
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        fitting = [] if source is not None else sizes_that_run(module).shapes
        advice = ", or ".join(f"type --input-shape {'x'.join(map(str, size))}" for size in fitting[:2])
        raise LoadError(
            f"the network fails on an input of {shape}: {reason}; {advice or 'check --input-shape'}"
        ) from error
    if source is not None:
        values = result if isinstance(result, tuple) else (result,)
        result = dict(zip(output_names(source.module), values, strict=True))
    outputs = outputs_of(
        result,
        PROBES,
        "wrap it in a module whose forward returns such tensors alone, and name it by --arch file.py:callable",
    )
    for name, output in outputs.items():
        if not torch.isfinite(output).all():
            raise LoadError(
                f"the network's {name} for images of random pixels are NaN or infinite; the checkpoint is damaged"
            )
    return outputs


def _require_one_input(module: nn.Module, x: Tensor, error: Exception) -> None:
    """Raise LoadError, of ``error``, where ``module`` can't be called with the images ``x`` alone."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(x)
    except TypeError:
        raise LoadError(
            f"expected a network that takes one batch of images, but its forward takes {signature}; wrap it in a "
            "module whose forward takes the images alone, and name it by --arch file.py:callable"
        ) from error
