"""Types of options that the command lines share, free of heavy imports."""

from pathlib import Path
from typing import Any

import click

FilePath = click.Path(path_type=Path)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between, as a tuple; ``example`` is shown where they are none."""

    name = "N[,N...]"

    def __init__(self, kind: type[int] | type[float], example: str = "") -> None:
        self._kind = kind
        self._hint = f", for example {example}" if example else ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers with commas between{self._hint}, got {value!r}", param, ctx)


def joined(values: tuple[object, ...]) -> str:
    """``"8.6,8.9"``: a tuple as it is typed."""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
