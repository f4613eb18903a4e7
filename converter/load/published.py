"""What is published beside the weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What is known of a network besides its weights; None where it isn't. ``source`` says who says so."""

    arch: str | None
    shape: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    source: str
