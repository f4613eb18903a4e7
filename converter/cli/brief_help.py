"""A command of many options: ``--help`` shows those that most people need, ``--help-all`` shows all of them."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import click
import cloup
from click.shell_completion import CompletionItem


class BriefCommand(cloup.Command):
    """A command with ``--help`` of ``most_used``, ``examples`` and the first two paragraphs of its description.

    ``--help-all`` has every option in its group, the whole description, and ``exit_codes``.
    """

    def __init__(
        self, *args: Any, most_used: Sequence[str], examples: str, exit_codes: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, epilog=f"{examples}\n\n{exit_codes}", **kwargs)
        self._most_used = most_used
        self._examples = examples

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        first, more = inspect.cleandoc(self.help or "").split("\n\n")[:2]
        for paragraph in (first, more.partition(". ")[0] + "."):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)
        options = {option.name: option for option in self.params if isinstance(option, click.Option)}
        with formatter.section("Most used"):
            formatter.write_dl([brief_record(options[name], ctx) for name in self._most_used])
        others = sum(option.expose_value for option in options.values()) - len(self._most_used)
        with formatter.section("More"):
            formatter.write_dl([(f"{ctx.command_path} --help-all", f"The other {others} options.")])
        formatter.write_paragraph()
        assert isinstance(formatter, cloup.HelpFormatter)
        formatter.write_epilog(self._examples)

    def whole_help(self, ctx: click.Context) -> str:
        """The text of ``--help-all``."""
        formatter = ctx.make_formatter()
        super().format_help(ctx, formatter)
        return formatter.getvalue().rstrip("\n")


def brief_record(option: click.Parameter, ctx: click.Context) -> tuple[str, str]:
    """An option's flags and the first sentence of its help."""
    record = option.get_help_record(ctx)
    assert record is not None
    flags, text = record
    return flags, re.split(r"(?<=\.) (?! )(?!\[)", text)[0]


def show_whole_help(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    """Print ``--help-all`` and end."""
    if asked and not ctx.resilient_parsing:
        assert isinstance(ctx.command, BriefCommand)
        click.echo(ctx.command.whole_help(ctx), color=ctx.color)
        ctx.exit()


help_all_option = cloup.option(
    "--help-all",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_whole_help,
    help="Show all options and exit.",
)


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete names of files, for an argument that may also be something else."""
    return [CompletionItem(incomplete, type="file")]


model_argument = click.argument("model", metavar="MODEL", shell_complete=complete_file)
