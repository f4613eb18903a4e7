"""``--help`` shows what most people need, ``--help-all`` the rest."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from converter.cli.convert import command as convert
from converter.cli.samples import command as samples

each_command = pytest.mark.parametrize("shown", [convert, samples], ids=["convert", "samples"])


def text_of(shown: click.Command, flag: str) -> str:
    result = CliRunner().invoke(shown, [flag])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE)


@each_command
def test_help_fits_on_a_screen_and_leads_to_the_rest(shown: click.Command) -> None:
    brief, whole = text_of(shown, "--help"), text_of(shown, "--help-all")
    assert len(brief.splitlines()) <= 45 < len(whole.splitlines())
    assert "--help-all" in brief
    assert set(flags_in(brief)) < set(flags_in(whole))
    assert 5 <= len(flags_in(brief)) <= 8


@each_command
def test_both_end_with_examples_and_the_whole_help_with_the_exit_codes(shown: click.Command) -> None:
    brief, whole = text_of(shown, "--help"), text_of(shown, "--help-all")
    examples = brief[brief.index("Examples:") :].strip()
    assert len(examples.splitlines()) >= 5
    rest = whole[whole.index(examples) + len(examples) :].strip()
    assert rest.startswith("Exit codes: 0 done")


def test_help_counts_the_options_that_it_leaves_out() -> None:
    brief, whole = text_of(convert, "--help"), text_of(convert, "--help-all")
    (left,) = re.findall(r"--help-all  The other (\d+) options", brief)
    meta = {"--version", "--help-all", "--help"}
    assert int(left) == len(set(flags_in(whole)) - meta - set(flags_in(brief)))


@pytest.mark.parametrize(
    ("flag", "said", "not_said"),
    [
        ("--max-drop", "Largest acceptable loss of accuracy, in percentage points.", "Keeps as few"),
        ("--output", "Output folder.  [default: NAME_int8]", ""),
    ],
)
def test_an_option_is_told_in_one_sentence(flag: str, said: str, not_said: str) -> None:
    brief, whole = (" ".join(text_of(convert, name).split()) for name in ("--help", "--help-all"))
    said = " ".join(said.split())
    assert said in brief
    assert said in whole
    if not_said:
        assert not_said not in brief
        assert not_said in whole


def test_completion_offers_options_choices_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As click's script for bash asks for them."""

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        environment = {
            "_ZSCGAN_CONVERT_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        runner = CliRunner(env=environment)
        return runner.invoke(convert, prog_name="zscgan-convert").stdout.splitlines()

    assert completed("zscgan-convert net.pth --calibr") == ["plain,--calibrator", "plain,--calibration-cache"]
    assert completed("zscgan-convert net.pth --engine tensorrt-") == ["plain,tensorrt-rtx"]
    assert completed("zscgan-convert examples/di") == ["file,examples/di"]
    assert completed("zscgan-convert net.pth --val examples/di") == ["file,examples/di"]
