"""Types of options that only the converter's commands have; those that all have are in ``engines.cli.params``."""

from typing import Any

import click


class ResizeType(click.ParamType):  # type: ignore[type-arg]
    """``256`` as 256, the shorter side, and ``240x320`` as (240, 320), height and width."""

    name = "N|HxW"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002 - click's
        """The name as it is, for the same reason as below."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int | tuple):
            return value
        numbers = whole_numbers(value)
        if numbers is None or len(numbers) > 2:
            self.fail(
                "expected the shorter side, for example 256, or height x width, for example 240x320, as whole numbers "
                f"from 1 up, got {value!r}",
                param,
                ctx,
            )
        return numbers if len(numbers) == 2 else numbers[0]


class ShapeType(click.ParamType):  # type: ignore[type-arg]
    """``3x224x224`` as (3, 224, 224)."""

    name = "CxHxW"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002 - click's
        """The name as it is: click writes it in capitals, which would turn the ``x`` into an axis."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        numbers = whole_numbers(value)
        if numbers is None or len(numbers) != 3:
            self.fail(
                f"expected CxHxW of whole numbers from 1 up, for example 3x224x224, got {value!r}", param, ctx
            )
        return numbers


def whole_numbers(text: str) -> tuple[int, ...] | None:
    """The numbers of ``3x224x224``; None where one is no whole number from 1 up."""
    parts = text.lower().split("x")
    return tuple(map(int, parts)) if all(part.isdecimal() and int(part) > 0 for part in parts) else None
