"""The documentation is true: its links lead somewhere, its commands parse, its names exist in the code."""

import ast
import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from calibrators.options import CalibrationOptions
from calibrators.ranges import entropy
from calibrators.ranges.cache_file import ENTROPY_CALIBRATOR, header_version
from calibrators.ranges.histogram import NUM_BINS
from calibrators.tensorrt.calibrator import ZSCGANEntropyCalibrator
from calibrators.zscgan.options import ZSCGANOptions
from converter import __version__
from converter.cli import convert as convert_cli
from converter.cli import samples as samples_cli
from converter.cli.convert import command as convert
from converter.doctor import cli as doctor_cli
from converter.environment.cache_version import ASSUMED
from converter.report.document import SCHEMA, Report
from converter.stages import calibration
from converter.stages.judges import JUDGES
from converter.stages.synthesis import GOOD_LABELS, POOR_STATISTICS
from converter.trust.prediction import inputs_for
from converter.trust.task.boxes import MATCH_IOU, NMS_IOU, Boxes
from engines.cli import bench as bench_cli
from engines.cli import build as build_cli
from engines.cli.spellings import SPELLINGS
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions
from tests.pages import (
    CODE,
    COMMANDS,
    DOCS,
    NOTEBOOK,
    PAGES,
    ROOT,
    WITH_COMMANDS,
    blocks,
    inline_commands,
    prose,
    shell_lines,
    text_of,
)
from zscgan_common.exit_codes import MISSED

PICTURES = DOCS / "pictures"
PACKAGES = ("converter", "calibrators", "engines", "zscgan_common")
OTHERS_TOOLS = {"trtexec", "jupyter", "polygraphy", "yolo", "docker"}
OTHERS_MODULES = {
    "modelopt.onnx.quantization",
    "tf2onnx.convert",
    "torch.distributed.checkpoint.format_utils",
    "pip",
    "venv",
}
OTHERS_FLAGS = {
    *("--help", "--sources", "--nproc-per-node", "--system-site-packages"),
    # trtexec
    *("--onnx", "--saveEngine", "--stronglyTyped", "--calib", "--minShapes", "--optShapes", "--maxShapes"),
    *("--memPoolSize", "--timingCacheFile", "--builderOptimizationLevel", "--versionCompatible"),
    "--hardwareCompatibilityLevel",
    # Polygraphy
    *("--data-loader-script", "--trt-min-shapes", "--trt-opt-shapes", "--trt-max-shapes", "--pool-limit"),
    *("--load-timing-cache", "--save-timing-cache", "--builder-optimization-level"),
    *("--hardware-compatibility-level", "--refittable"),
    # ModelOpt
    *("--onnx_path", "--output_path", "--calibration_data_path", "--calibration_method"),
    "--high_precision_dtype",
    # Docker's and pip's
    *("--build-arg", "--constraint", "--gpus", "--user"),
}
README_BYTES = 6_000
SCREENSHOTS = {"report.png"}
"""Pictures of a browser, which ``draw.py`` does not make."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SOURCE = re.compile(
    rf"^(?:{'|'.join([*PACKAGES, 'docs', 'examples', 'tests', 'benchmarks'])})/[\w./-]+\.\w+$"
)
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)
VARIES = "…"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_page_with_commands = pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, punctuation dropped, hyphens for spaces."""
    headings = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in HEADING.findall(prose(page)))
    return {heading.replace(" ", "-") for heading in headings}


def table(page: Path, heading: str) -> dict[str, str]:
    """First cell -> the others, of the rows below ``heading`` whose first cell is code."""
    text = prose(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(ROW.findall(text))


# Links and names


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_links_of_the_notebook_lead_somewhere() -> None:
    targets = [NOTEBOOK.parent / target for target in LINK.findall(text_of(NOTEBOOK))]
    assert len(targets) >= 4
    assert [target for target in targets if not target.is_file()] == []


def test_the_index_has_every_page() -> None:
    listed = set(LINK.findall((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = {name for name in CODE.findall(prose(page)) if SOURCE.match(name)}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


# Commands


@contextmanager
def nothing_run() -> Iterator[None]:
    """Commands of the project end after their options were checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_cli, "run", lambda *given, **more: 0)
        patch.setattr(samples_cli, "exit_code", lambda *given: 0)
        patch.setattr(bench_cli, "_bench", lambda *given: None)
        patch.setattr(build_cli, "_build", lambda *given: None)
        patch.setattr(doctor_cli, "run", lambda *given, **more: 0)
        yield


def exit_code(program: str, arguments: list[str]) -> object:
    """That of a command of the project whose options are checked and which then does nothing."""
    with nothing_run():
        try:
            return COMMANDS[program].main(arguments, program, standalone_mode=False) or 0
        except SystemExit as end:
            return end.code


def check_command(words: list[str]) -> None:
    """Raise where a command can't be what a user types; of the project's own all but the work is run."""
    program, *arguments = words
    if program == "torchrun":
        program, arguments = "zscgan-convert", arguments[arguments.index("converter") + 1 :]
    if program in COMMANDS:
        assert exit_code(program, arguments) == 0, words
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1] in OTHERS_MODULES, words
    elif program == "python":
        check_script(ROOT / arguments[0], arguments[1:])
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), words
    elif program == "pip":
        extras = re.findall(r"\.\[(\w+)\]", " ".join(arguments))
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(f"\n{extra} = [" in project for extra in extras), words
    else:
        assert program in OTHERS_TOOLS, words


def check_script(script: Path, arguments: list[str]) -> None:
    """Raise where ``script`` or one of its flags does not exist; benchmarks share some of theirs."""
    assert script.is_file(), script
    code = "".join(path.read_text(encoding="utf-8") for path in script.parent.glob("*.py"))
    assert [flag for flag in arguments if flag.startswith("--") and f'"{flag}"' not in code] == []


@each_page_with_commands
def test_commands_are_accepted(page: Path) -> None:
    for words in shell_lines(page):
        check_command(words)


@each_page
def test_commands_in_the_text_are_accepted(page: Path) -> None:
    for words in inline_commands(page):
        check_command(words)


def test_most_pages_have_commands() -> None:
    assert sum(len(list(shell_lines(page))) for page in PAGES) > 40
    assert sum(len(list(inline_commands(page))) for page in PAGES) > 25


@pytest.mark.parametrize(
    "line",
    [
        "zscgan-convert a.pth --int9",
        "zscgan-convert a.pth",
        "zscgan-convert a.pth --int8 --mean 0.5",
        "zscgan-convert a.pth --int8 --qat-steps 3",
        "zscgan-samples a.pth -o b.npz --class-folders",
        "zscgan-bench a.plan --batch 0",
        "zscgan-build a.onnx",
        "zscgan-build a.onnx -o b --min-shapes 0",
        "zscgan-doctor -o b.json",
        "torchrun -m converter a.pth --int9",
        "make nothing",
        "python nowhere.py",
        "python benchmarks/qat.py DATA --nothing 3",
        "python -m nothing",
        "rm -r x",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check_command(line.split())


def options_of(command: click.Command) -> set[str]:
    """Every way to write an option, but those that each command has."""
    found = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return {flag for flag in found if flag.startswith("-")} - {"--version", "--help", "-h"}


def test_every_option_is_in_the_page_of_the_command_line() -> None:
    text = " ".join(CODE.findall(prose(DOCS / "cli.md"))).split()
    assert set().union(*map(options_of, COMMANDS.values())) - set(text) == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


def test_the_steps_of_a_training_are_the_defaults() -> None:
    steps, guide_steps = ZSCGANOptions.steps, ZSCGANOptions.guide_steps
    cli, script, method = (
        (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for name in ("cli", "tensorrt-script", "method")
    )
    assert f"at most ({steps}; training stops early" in cli
    assert f"all classes ({guide_steps}; 0 for none" in cli
    assert f"ZSCGANOptions(steps={steps}, " in script
    assert f"\n{steps} steps, in batches of " in method


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", text, re.MULTILINE)


@each_page
def test_flags_exist(page: Path) -> None:
    ours = {
        flag
        for command in COMMANDS.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    spans = [
        code for code in CODE.findall(prose(page)) if code.split()[0] in COMMANDS or code.startswith("--")
    ]
    named = {flag for code in spans for flag in FLAG.findall(code)}
    theirs = {f"--{name}" for name in SPELLINGS}
    assert named - ours - theirs - OTHERS_FLAGS == set()


def test_the_spellings_of_other_tools_are_those_of_the_code() -> None:
    (paragraph,) = re.findall(
        r"^Spellings that are accepted.*?\n\n", prose(DOCS / "cli.md"), re.MULTILINE | re.DOTALL
    )
    assert CODE.findall(paragraph) == [f"--{name}" for name in SPELLINGS]


def test_completion_works_in_bash(tmp_path: Path) -> None:
    """The lines for ``~/.bashrc`` define a completion for each command, and what they define answers."""
    (lines,) = blocks(DOCS / "completion.md", "bash")
    for name, command in COMMANDS.items():
        script = tmp_path / name
        script.write_text(
            f"#!{sys.executable}\nfrom {command.callback.__module__} import {command.callback.__name__} as run\n"
            f"run(prog_name={name!r})\n"
        )
        script.chmod(0o755)
    asked = (
        "COMP_WORDS=(zscgan-convert net.pth --calibr); COMP_CWORD=2; _zscgan_convert_completion zscgan-convert; "
        'complete -p | sed "s/.* //"; echo "${COMPREPLY[@]}"'
    )
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        ["bash", "--norc", "-c", f"{lines}\n{asked}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *completed, answer = result.stdout.split("\n")[:-1]
    assert set(completed) == set(COMMANDS)
    assert answer == "--calibrator --calibration-cache"


# Constants


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "calibrators.md",
            f"on {inputs_for(64)} fresh samples ({inputs_for(16)} for inputs over 96x96, {JUDGES} for masks), on",
        ),
        ("calibrators.md", f"({CalibrationOptions.percentile:g} unless you say otherwise)"),
        ("calibrators.md", f"`--calib-samples` ({CalibrationOptions.samples})"),
        ("calibrators.md", f"from bin {entropy.START_BIN} up"),
        ("calibrators.md", f"up to {NUM_BINS:,} bins"),
        ("report.md", f"Above {POOR_STATISTICS:g} there is a warning"),
        ("report.md", f"under {GOOD_LABELS:g} there is a warning"),
        ("report.md", f"version of this format: {SCHEMA}"),
        (
            "tasks.md",
            f"with a score of {Boxes.threshold:g} or more, after non-maximum suppression at an IoU of {NMS_IOU}",
        ),
        ("tasks.md", f"with an IoU of {MATCH_IOU} or more"),
        ("tensorrt.md", f"TRT-{header_version(ASSUMED)}-{ENTROPY_CALIBRATOR}"),
    ],
)
def test_constants_are_those_of_the_code(page: str, text: str) -> None:
    assert text in " ".join((DOCS / page).read_text(encoding="utf-8").split())


# Python


@each_page
def test_python_compiles_and_its_imports_exist(page: Path) -> None:
    for body in blocks(page, "python"):
        tree = ast.parse(body, filename=str(page))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_json_blocks_are_parts_of_json() -> None:
    found = [body for page in PAGES for body in blocks(page, "json")]
    assert found
    for body in found:
        json.loads("{" + body + "}")


def test_the_calibrators_arguments_are_those_of_the_code() -> None:
    parameters = inspect.signature(ZSCGANEntropyCalibrator.__init__).parameters
    assert list(table(DOCS / "tensorrt-script.md", "Arguments")) == [
        name for name in parameters if name != "self"
    ]


# The report


def documented() -> dict[str, str]:
    """Path of a field -> its meaning, of all tables of report.md."""
    return dict(ROW.findall(prose(DOCS / "report.md")))


def paths(value: Any, at: str = "") -> Iterator[str]:
    """The path of every leaf of a report, as report.md writes it: ``stages[].name``."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from paths(entry, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for entry in value:
            yield from paths(entry, f"{at}[]")
    else:
        yield at


def fits(pattern: str, path: str) -> bool:
    """Whether the documented ``pattern`` stands for ``path``; a list is the same as its entries."""
    regex = re.escape(pattern.removesuffix("[]").removesuffix(".*")).replace(r"\*", "[^.]+")
    return re.fullmatch(regex + (r"(\..+)?" if pattern.endswith(".*") else ""), path) is not None


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short conversion of the digits, one range of which is spoilt so that its layer leaves INT8."""
    known = calibration.with_exact_input
    folder = tmp_path_factory.mktemp("docs") / "out"
    flags = ["--int8", "--gan-steps", "12", "--calib-samples", "64", "--val", str(DIGITS / "test.npz"),
             "--qat", "--qat-steps", "2", "--max-drop", "0"]  # fmt: skip
    with quick_conversions() as patch:
        patch.setattr(calibration, "with_exact_input", lambda *measured: known(*measured) | {"relu_3": 0.01})
        result = CliRunner().invoke(convert, [*MODEL, *INPUT, *flags, "-o", str(folder)])
    assert result.exit_code in (0, MISSED), result.output
    return folder


@pytest.fixture(scope="module")
def report(converted: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((converted / "report.json").read_text(encoding="utf-8"))
    return document


def test_every_field_of_the_report_has_a_place() -> None:
    rows = {name.partition(".")[0].removesuffix("[]") for name in documented()}
    assert {"schema", *(field.name for field in fields(Report))} <= rows


@pytest.mark.slow
def test_every_key_of_a_real_report_is_documented(report: dict[str, Any]) -> None:
    found = {path for key, value in report.items() if value is not None for path in paths(value, key)}
    assert {path for path in found if not any(fits(pattern, path) for pattern in documented())} == set()


def test_documented_keys_are_in_a_real_report(report: dict[str, Any]) -> None:
    """But those of sections that were not run, and those whose row says that they are only there sometimes."""
    found = {path for key, value in report.items() if value is not None for path in paths(value, key)}
    expected = [
        pattern
        for pattern, meaning in documented().items()
        if report[pattern.partition(".")[0].removesuffix("[]")] is not None and "only" not in meaning
    ]
    assert len(expected) > 60
    assert [pattern for pattern in expected if not any(fits(pattern, path) for path in found)] == []


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b.c", True),
        ("a[].b", "a[].b", True),
        ("a[].b", "a[].c", False),
        ("a.b[]", "a.b", True),
        ("a.b", "a.bc", False),
    ],
)
def test_fits(pattern: str, path: str, expected: bool) -> None:
    assert fits(pattern, path) is expected


# Pictures


def test_pictures_are_those_that_the_script_draws(converted: Path, tmp_path: Path) -> None:
    runpy.run_path(str(PICTURES / "draw.py"))["main"](converted, tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    kept = {path.name for path in PICTURES.glob("*.png")}
    assert drawn == kept - SCREENSHOTS
    shown = {Path(target).name for page in PAGES for target in LINK.findall(prose(page))}
    assert kept < shown


# Messages


def template(node: ast.expr) -> str | None:
    """The text of a string in the code, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w*\}", VARIES, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            VARIES if isinstance(part, ast.FormattedValue) else str(getattr(part, "value", ""))
            for part in node.values
        )
    return None


@cache
def templates() -> tuple[str, ...]:
    """All strings of the three packages."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    found = (template(node) for node in nodes if isinstance(node, ast.expr))
    return tuple(text for text in found if text)


MESSAGES = re.findall(
    r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
)


@cache
def warnings() -> dict[str, str | None]:
    """Code of each warning -> its text; None where that is made elsewhere."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    made = (n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "WarningMessage")
    return {str(ast.literal_eval(call.args[0])): template(call.args[1]) for call in made}


def test_the_codes_of_warnings_are_listed() -> None:
    codes = re.findall(r"^- `([\w-]+)`: ", (DOCS / "report.md").read_text("utf-8"), re.MULTILINE)
    assert codes == sorted(warnings())


@pytest.mark.parametrize("code", [code for code, text in warnings().items() if text is not None])
def test_each_warning_has_a_place_in_troubleshooting(code: str) -> None:
    assert any(message in str(warnings()[code]) for message in MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_code(message: str) -> None:
    assert any(message in text for text in templates())


def test_messages_are_many_and_each_once() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) > 50


def test_template_marks_what_varies() -> None:
    def text(code: str) -> str | None:
        return template(ast.parse(code, mode="eval").body)

    assert text("f'no {a!r} in {b:.2f}' ' words'") == "no … in … words"
    assert text("'{} is kept'") == "… is kept"
    assert text("name") is None
