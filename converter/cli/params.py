"""Types of options that only the converter's commands have; those that all have are in ``engines.cli.params``."""

from typing import Any

import click


class ShapeType(click.ParamType):  # type: ignore[type-arg]
    """``3x224x224`` as (3, 224, 224)."""

    name = "CxHxW"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002 - click's
        """The name as it is: click writes it in capitals, which would turn the ``x`` into an axis."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = value.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(
                f"expected CxHxW of whole numbers from 1 up, for example 3x224x224, got {value!r}", param, ctx
            )
        return tuple(map(int, parts))
