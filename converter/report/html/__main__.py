"""``python -m converter.report.html report.json``: the page anew, from a report and the picture that lies beside it."""

import json
from pathlib import Path

import click

from converter.report.document import PAGE, SCHEMA, Report
from converter.report.html.page import save_page
from converter.workspace import SAMPLES
from zscgan_common.text import first_line


@click.command()
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), help=f"[default: {PAGE} beside REPORT]")
def command(report: Path, output: Path | None) -> None:
    """Write REPORT, a report.json, as a page for a browser."""
    try:
        document = json.loads(report.read_bytes())
        schema = document.pop("schema", None)
        content = Report(**document)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise click.ClickException(
            f"expected a report.json of zscgan-convert, but {report}: {first_line(error)}"
        ) from error
    if schema != SCHEMA:
        raise click.ClickException(f"expected a report with schema {SCHEMA}, got {schema!r}; convert again")
    try:
        page = save_page(content, report.with_name(SAMPLES), output or report.with_name(PAGE))
    except (
        Exception
    ) as error:  # a template fails in any way on a field that was changed, and Pillow on a picture
        raise click.ClickException(
            f"{report} or {SAMPLES} beside it is damaged, or the page can't be written: {first_line(error)}; convert "
            "again"
        ) from error
    click.echo(page)


if __name__ == "__main__":
    command(prog_name="python -m converter.report.html")
