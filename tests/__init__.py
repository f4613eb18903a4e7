"""The tests, and how the signatures of the packages are checked meanwhile."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def beartype_when_called(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """``function``, checked by beartype, which is asked for its check at the first call.

    To write the checks of all signatures takes seconds in each process, and no process calls every function.
    """

    @functools.cache
    def checked() -> Callable[Arguments, Returned]:
        from beartype import beartype

        return beartype(function)

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        return checked()(*args, **kwargs)

    return call
