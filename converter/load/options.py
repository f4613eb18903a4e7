"""What the user says about MODEL, checked before anything heavy is imported."""

from dataclasses import dataclass

from calibrators.data.input_spec import ORDERS, PRESETS, ChannelOrder, InputSpec
from converter.errors import OptionsError

AUTO = "auto"
PRESET_CHOICES = (AUTO, *PRESETS)
ORDER_CHOICES = (AUTO, *ORDERS)


@dataclass(frozen=True)
class ModelOptions:
    """Where the classifier is and how its input looks.

    ``model`` is a file, a folder, the name of a torchvision classifier, or ``timm:name``. ``arch`` is a torchvision
    name, ``timm:name``, ``package.module:callable`` or ``file.py:callable``, the last three also with arguments in
    brackets; None recognises the architectures of torchvision and timm by their weights. ``trust_pickle`` lets a file
    run its own code while it is read. ``input_shape`` is (channels, height, width); ``mean`` and ``std`` normalise
    pixels in [0, 1], one value or one a channel, in the network's order, which is ``channel_order``. ``preset`` names
    an entry of ``PRESETS``; "auto" is the same as None, for the order too. Whatever is None comes from the preset, then
    from what is published beside the weights, the torchvision weights or the network. Raises OptionsError for values
    that are wrong by themselves or together.
    """

    model: str
    arch: str | None = None
    trust_pickle: bool = False
    input_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preset: str | None = None
    channel_order: str | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise OptionsError("expected MODEL, a file or a torchvision name, got an empty text")
        for name, choices in (("preset", PRESET_CHOICES), ("channel_order", ORDER_CHOICES)):
            given = getattr(self, name)
            if given is not None and given not in choices:
                flag = name.replace("_", "-")
                raise OptionsError(f"expected --{flag} {'|'.join(choices)}, got {given!r}")
            if given == AUTO:
                object.__setattr__(self, name, None)
        if (self.mean is None) != (self.std is None):
            given, absent = ("mean", "std") if self.std is None else ("std", "mean")
            raise OptionsError(
                f"--mean and --std belong together: got --{given} without --{absent}; type both, or --preset "
                f"{'|'.join(PRESETS)}"
            )
        if self.preset is not None and self.mean is not None:
            raise OptionsError(
                f"--preset {self.preset} and --mean conflict: a preset has a mean and a std of its own; leave --preset "
                "out (and type --input-shape, where it was for the shape), or --mean and --std"
            )
        self._check_values()

    @property
    def order(self) -> ChannelOrder | None:
        """``channel_order``, which was checked."""
        return next((order for order in ORDERS if order == self.channel_order), None)

    @property
    def normalisation_flags(self) -> str:
        """What was typed of the normalisation; empty where nothing was."""
        typed = (
            "--mean and --std" if self.mean is not None else f"--preset {self.preset}" if self.preset else ""
        )
        order = f"--channel-order {self.channel_order}" if self.channel_order else ""
        return " with ".join(filter(None, (typed, order)))

    def _check_values(self) -> None:
        """Raise OptionsError where shape, mean and std make no InputSpec."""
        channels = max(len(self.mean or ()), len(self.std or ()), 1)
        try:
            InputSpec(self.input_shape or (channels, 1, 1), self.mean or (0.0,), self.std or (1.0,))
            if self.input_shape is not None:
                InputSpec(self.input_shape, channel_order=self.order or "rgb")
        except ValueError as error:
            raise OptionsError(str(error)) from error
