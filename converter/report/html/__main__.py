"""``python -m converter.report.html report.json``: the page anew, from a report and the pictures that lie beside it."""

from pathlib import Path

import click

from converter.report.document import PAGE, report_from_json
from converter.report.html.page import save_page
from converter.workspace import ANSWERS, SAMPLES
from zscgan_common.text import first_line


@click.command()
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), help=f"[default: {PAGE} beside REPORT]")
def command(report: Path, output: Path | None) -> None:
    """Write REPORT, a report.json, as a page for a browser."""
    try:
        content = report_from_json(report.read_bytes())
    except (ValueError, RecursionError) as error:
        raise click.ClickException(
            f"expected a report.json of zscgan-convert, but {report}: {first_line(error)}; convert again"
        ) from error
    try:
        page = save_page(
            content, report.with_name(SAMPLES), output or report.with_name(PAGE), report.with_name(ANSWERS)
        )
    except (
        Exception
    ) as error:  # a template fails in any way on a field that was changed, and Pillow on a picture
        raise click.ClickException(
            f"{report} or a picture beside it is damaged, or the page can't be written: {first_line(error)}; convert "
            "again"
        ) from error
    click.echo(page)


if __name__ == "__main__":
    command(prog_name="python -m converter.report.html")
