"""A warning as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarningMessage:
    """``text`` says what was found, ``advice`` what it means and what to do; programs go by ``code``."""

    code: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return self.text
