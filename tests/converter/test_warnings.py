"""Every warning has a code of its own and an advice."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def warnings() -> list[ast.Call]:
    """Every WarningMessage that the sources make."""
    files = (
        path for package in ("converter", "engines", "calibrators") for path in (ROOT / package).rglob("*.py")
    )
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return [
        node
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "WarningMessage"
    ]


def codes() -> list[str]:
    return [ast.literal_eval(call.args[0]) for call in warnings()]


def test_codes_are_written_once_but_for_options_without_effect() -> None:
    counts = Counter(codes())
    assert len(counts) > 15
    assert {code for code, count in counts.items() if count > 1} == {"option-ignored"}


def test_every_warning_has_an_advice() -> None:
    assert [ast.unparse(call) for call in warnings() if len(call.args) != 3] == []


def test_docs_list_every_code() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert [code for code in sorted(set(codes())) if f"- `{code}`: " not in text] == []
