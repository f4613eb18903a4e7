"""What holds for the project as a whole: import directions, places, imports on a bare machine, clean files."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

ROOT = Path(__file__).parents[1]
PACKAGES = ("converter", "calibrators", "engines", "zscgan_common")
MAY_IMPORT = {
    "converter": {"converter", "calibrators", "engines", "zscgan_common"},
    "calibrators": {"calibrators", "zscgan_common"},
    "engines": {"engines", "zscgan_common"},
    "zscgan_common": {"zscgan_common"},
}

# Nobody has to have these, and each needs a GPU, a driver or a large download.
OPTIONAL = (
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "pycuda",
    "pynvml",
    "modelopt",
    "pytorch_quantization",
)
# Seconds to import: modules that --help and the options load do without them.
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript")
LIGHT_MODULES = (
    "converter/__init__.py",
    "converter/api.py",
    "converter/cli/*.py",
    "**/options.py",
    "**/params.py",
    "**/errors.py",
    "calibrators/data/input_spec.py",
    "engines/cli/bench.py",
    "engines/cli/build.py",
    "converter/doctor/cli.py",
)

MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|home)/")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python\.org|nvidia\.com)|pythonhosted\.org|download\.pytorch\.org/whl|npmjs\.(?:org|com)"
)

# Runs in a fresh interpreter: argv is the blocked names, a bar, the modules to import.
IMPORT_WITHOUT = """
import importlib, importlib.abc, importlib.machinery, sys, traceback

bar = sys.argv.index("|")
blocked, modules = set(sys.argv[1:bar]), sys.argv[bar + 1 :]

class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # PyTorch looks for some specs without importing them, so the import fails and not the search.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        raise ImportError(f"blocked by the test: {module.__name__}", name=module.__name__)

sys.meta_path.insert(0, Blocker())
failed = 0
for name in modules:
    try:
        importlib.import_module(name)
    except Exception:
        failed += 1
        print(f"--- {name}", traceback.format_exc(), sep="\\n")
sys.exit(failed > 0)
"""


def sources() -> list[Path]:
    """Every module file of the three packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of all modules that ``tree`` imports anywhere, in functions too.

    ``package`` is what a relative import starts from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield ".".join([*package.split(".")[: 1 - node.level or None], *filter(None, [node.module])])
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def import_without(blocked: tuple[str, ...], modules: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", IMPORT_WITHOUT, *blocked, "|", *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def project_files() -> list[Path]:
    """The files that git tracks and that are there."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of the project's files")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_imported_names_sees_every_kind_of_import() -> None:
    code = "import a.b\ndef f(): from c import d; from .e import g; from .. import h; from ..i import j"
    assert list(imported_names(ast.parse(code), "p.q")) == ["a.b", "c", "p.q.e", "p", "p.i"]


def test_imports_go_in_one_direction() -> None:
    wrong = []
    for path in sources():
        package = module_name(path if path.name == "__init__.py" else path.parent / "__init__.py")
        top = package.partition(".")[0]
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8")), package):
            target = name.partition(".")[0]
            if target in {*PACKAGES, "tests"} - MAY_IMPORT[top]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def module_imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports anywhere; of ``from package import name`` the package, or the module."""
    files = {module_name(path): path for path in sources()}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        full = [(node.module or "", f"{node.module}.{alias.name}") for node in nodes for alias in node.names]
        found[name] = {long if long in files else short for short, long in full} & files.keys() - {name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of ``graph``, from a node back to itself; empty where there is none."""
    done: set[str] = set()

    def search(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := search(following, [*way, node]):
                return found
        done.add(node)
        return []

    return next(filter(None, (search(node, []) for node in sorted(graph))), [])


def test_circle_finds_one() -> None:
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_modules_import_one_another() -> None:
    imports = module_imports()
    assert len(imports) > 150
    assert circle(imports) == []


def test_no_folders_import_one_another() -> None:
    """A module that lies in no folder of its package stands for itself."""
    files = {module_name(path): path for path in sources()}

    def room(module: str) -> str:
        folder = files[module].parent.relative_to(ROOT).as_posix()
        return folder if "/" in folder else module

    rooms: dict[str, set[str]] = {}
    for module, imported in module_imports().items():
        rooms.setdefault(room(module), set()).update({room(name) for name in imported} - {room(module)})
    assert circle(rooms) == []


def test_tests_are_where_one_looks_for_them() -> None:
    """A test file in a folder of the packages' names, and beside others for the module that it is called after."""
    wrong = []
    for package in PACKAGES:
        places: dict[str, set[str]] = {}
        for path in (ROOT / package).rglob("*.py"):
            places.setdefault(path.stem, set()).add(path.parent.relative_to(ROOT).as_posix())
        for test in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = test.parent.relative_to(ROOT / "tests").as_posix()
            expected = places.get(test.stem.removeprefix("test_"), {folder})
            if not (ROOT / folder).is_dir() or folder not in expected:
                wrong.append(
                    f"{test.relative_to(ROOT)}: expected it in tests/{' or '.join(sorted(expected))}"
                )
    assert wrong == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in sources()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_signatures_are_checked_at_each_call() -> None:
    from calibrators.ranges.histogram import HistogramCollector

    collector = HistogramCollector("x")
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="collect"):
            collector.collect([1.0, 2.0])  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_module_imports_without_the_optional_packages() -> None:
    modules = [module_name(path) for path in sources() if path.name != "__main__.py"]
    assert set(PACKAGES) <= set(modules)
    result = import_without(OPTIONAL, modules)
    assert result.returncode == 0, result.stdout + result.stderr


def test_light_modules_import_without_the_heavy_packages() -> None:
    modules = [module_name(path) for pattern in LIGHT_MODULES for path in sorted(ROOT.glob(pattern))]
    modules = [name for name in modules if name.partition(".")[0] in PACKAGES]
    assert "converter.errors" in modules
    result = import_without(OPTIONAL + HEAVY, modules)
    assert result.returncode == 0, result.stdout + result.stderr


def test_blocked_packages_are_really_blocked() -> None:
    result = import_without(("json",), ["json"])
    assert result.returncode == 1
    assert "blocked by the test: json" in result.stdout


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_files_name_no_machine(pattern: re.Pattern[str]) -> None:
    found = []
    for path in project_files():
        content = path.read_bytes()
        if path == Path(__file__) or b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "pattern", "hit"),
    [
        ("cd /work/main", MACHINE_PATH, True),
        ('"/home/ann/x"', MACHINE_PATH, True),
        ("docs/home/index", MACHINE_PATH, False),
        ("~/work/models", MACHINE_PATH, False),
        ("https://pypi.org/simple", REGISTRY_HOST, True),
        ("pip install pypi-client", REGISTRY_HOST, False),
    ],
)
def test_patterns_find_what_they_should(line: str, pattern: re.Pattern[str], hit: bool) -> None:
    assert bool(pattern.search(line)) is hit
