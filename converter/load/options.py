"""What the user says about MODEL, checked before anything heavy is imported."""

from dataclasses import dataclass

from calibrators.data.input_spec import PRESETS, InputSpec
from converter.errors import OptionsError


@dataclass(frozen=True)
class ModelOptions:
    """Where the classifier is and how its input looks.

    ``model`` is a file, the name of a torchvision classifier, or ``timm:name``. ``arch`` is a torchvision
    name, ``timm:name``, ``package.module:callable`` or ``file.py:callable``, the last three also with
    arguments in brackets; None recognises the architectures of torchvision and timm by their weights.
    ``trust_pickle`` lets a file run its own code while it is read. ``input_shape`` is (channels, height,
    width); ``mean`` and ``std`` normalise pixels in [0, 1], one value or one a channel.
    ``preset`` names an entry of ``PRESETS``. Whatever is None comes from the preset, then from the
    torchvision weights. Raises OptionsError for values that are wrong by themselves or together.
    """

    model: str
    arch: str | None = None
    trust_pickle: bool = False
    input_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise OptionsError("expected MODEL, a file or a torchvision name, got an empty text")
        if self.preset is not None and self.preset not in PRESETS:
            raise OptionsError(f"expected --preset {'|'.join(PRESETS)}, got {self.preset!r}")
        if (self.mean is None) != (self.std is None):
            given, absent = ("mean", "std") if self.std is None else ("std", "mean")
            raise OptionsError(
                f"--mean and --std belong together: got --{given} without --{absent}; type both, or --preset "
                f"{'|'.join(PRESETS)}"
            )
        self._check_values()

    def _check_values(self) -> None:
        """Raise OptionsError where shape, mean and std make no InputSpec."""
        channels = max(len(self.mean or ()), len(self.std or ()), 1)
        try:
            InputSpec(self.input_shape or (channels, 1, 1), self.mean or (0.0,), self.std or (1.0,))
        except ValueError as error:
            raise OptionsError(str(error)) from error
