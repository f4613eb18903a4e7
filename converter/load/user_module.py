"""The user's own network or function: ``package.module:callable`` and ``file.py:callable``."""

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from converter.errors import ArchitectureError, ConversionError, DecodeError
from zscgan_common.text import cut, shortened

FORMS = "--arch torchvision_name | timm:name | package.module:callable | file.py:callable"
DECODE_FORMS = "--decode file.py:callable | package.module:callable"


def module_from_callable(arch: str, **known: int | None) -> nn.Module:
    """The network that the callable named by ``arch`` returns, called with the arguments that ``arch`` types.

    Those of ``known`` that aren't None are passed too where it has parameters of their names and nothing else is typed.
    The folder of ``file.py``, or the current one for a package, is on ``sys.path`` until it has returned. Raises
    ArchitectureError with the file and line of an error in the user's code.
    """
    place, typed = arguments_of(arch)
    given = f"--arch {arch}"
    with _named(f"--arch {place}", FORMS, ArchitectureError) as (build, file):
        arguments = typed if typed is not None else _taken(build, known)
        try:
            network = build(**arguments)
        except Exception as error:  # its constructor can raise anything
            hint = _hint_on_arguments(place, arguments) if isinstance(error, TypeError) else ""
            raise ArchitectureError(_user_error(given, "calling", error, file) + hint) from error
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"{given} returned a {type(network).__name__}; expected a torch.nn.Module, so point it at "
            "the network's class or at a function that returns the network"
        )
    return network


def arguments_of(arch: str) -> tuple[str, dict[str, Any] | None]:
    """``arch`` without its arguments, and these; None where it types none, so no brackets.

    ``file.py:build(num_classes=7)``: names with literals. Raises ArchitectureError for anything else.
    """
    place, bracket, rest = arch.partition("(")
    if not bracket:
        return arch, None
    refusal = ArchitectureError(
        f"expected --arch '{place}(name=value, ...)' with numbers, texts, True, False, None or lists of these as "
        f"values, got --arch {shortened(arch)}"
    )
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise refusal
        named = [(keyword.arg, ast.literal_eval(keyword.value)) for keyword in call.keywords]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise refusal from error
    arguments = {name: value for name, value in named if name is not None}
    if len(arguments) != len(named):
        raise refusal
    return place, arguments


def _taken(build: Callable[..., Any], known: Mapping[str, int | None]) -> dict[str, int]:
    """The arguments of ``known`` that ``build`` has parameters for, by name."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):  # of a class in C
        return {}
    return {name: value for name, value in known.items() if value is not None and name in parameters}


def _hint_on_arguments(place: str, arguments: Mapping[str, Any]) -> str:
    """How it was called, for the message of a call that failed."""
    typed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    how = f"with {typed}" if typed else "without arguments"
    return f" (it is called {how}); to pass others, type --arch '{place}(name=value)'"


def decoder_from_callable(decode: str) -> Callable[..., Any]:
    """The function named by ``decode``, which makes boxes of a detector's outputs.

    Raises DecodeError with the file and line of an error in the user's code.
    """
    with _named(f"--decode {decode}", DECODE_FORMS, DecodeError) as (function, _):
        return function


@contextmanager
def _named(
    given: str, forms: str, refuse: type[ConversionError]
) -> Iterator[tuple[Callable[..., Any], Path | None]]:
    """The callable of the user that ``given``, an option and its value, names, and its file if it is no package's.

    Its folder is on ``sys.path`` while inside.
    """
    option, _, value = given.partition(" ")
    place, _, name = value.rpartition(":")
    if not place or not name:
        raise refuse(f"expected {forms}, got {given}")
    file = Path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise refuse(f"{given}: there is no file {file}")
    with on_sys_path(file.resolve().parent if file else Path.cwd()):
        try:
            code = _module_from_file(file) if file else importlib.import_module(place)
        except Exception as error:  # the user's file can raise anything
            relative = "relative import" in str(error)
            package = _package_form(option, file, name) if file and relative else ""
            raise refuse(_user_error(given, "importing", error, file) + package) from error
        found = getattr(code, name, None)
        if not callable(found):
            raise refuse(_no_callable(given, code, name))
        yield found, file


@contextmanager
def on_sys_path(folder: Path) -> Iterator[None]:
    """``folder`` first on ``sys.path`` while inside."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _module_from_file(file: Path) -> ModuleType:
    """``file`` executed as a module; it stays in ``sys.modules``, where its classes look for it."""
    name = f"zscgan_arch_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_form(option: str, file: Path, name: str) -> str:
    """What to type in place of ``file``, which imports from its own package; empty where it doesn't itself.

    The package is as deep as the file's imports climb, and reaches up to the last folder with an ``__init__.py``.
    """
    levels = [
        node.level for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.ImportFrom)
    ]
    climbs = max(levels, default=0)
    folders = list(file.resolve().parents)
    if not 0 < climbs < len(folders):
        return ""
    while (folders[climbs - 1] / "__init__.py").exists() and (folders[climbs] / "__init__.py").exists():
        climbs += 1
    parts = [folder.name for folder in reversed(folders[:climbs])]
    start = "" if folders[climbs] == Path.cwd() else f" in {folders[climbs]}"
    return f"; it imports from its own package: type {option} {'.'.join([*parts, file.stem])}:{name}{start}"


def _no_callable(given: str, code: ModuleType, name: str) -> str:
    """The message for a name that is absent or no callable."""
    if hasattr(code, name):
        return f"{given}: {name} is a {type(getattr(code, name)).__name__}; expected a class or function"
    names = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    has = cut(near + [other for other in names if other not in near], len(near) or 5)
    return f"{given}: there is no {name} in it; it has {has or 'no callables'}"


def _user_error(given: str, doing: str, error: Exception, file: Path | None) -> str:
    """One line for an error in the user's code, with the last line of his own file that was running."""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" at {error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if file and Path(frame.filename) == file.resolve()]
        inside = [
            f for f in mine or frames if f.filename != __file__ and not f.filename.startswith("<frozen")
        ]
        inside = [frame for frame in inside if "importlib" not in Path(frame.filename).parts]
        where = f" at {inside[-1].filename}:{inside[-1].lineno}" if inside else ""
    return f"{given}: {doing} it failed{where}: {type(error).__name__}: {error}"
