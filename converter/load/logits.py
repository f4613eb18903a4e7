"""What a classifier has to return."""

from torch import Tensor

from converter.errors import LoadError


def logits_of(output: object, images: int, advice: str) -> Tensor:
    """``output``, what a network returned for ``images`` images; raises LoadError unless these are logits."""
    if not isinstance(output, Tensor):
        raise LoadError(
            f"expected the network to return one tensor of logits, got a {type(output).__name__}; {advice}"
        )
    if output.dim() != 2 or len(output) != images or output.shape[1] < 1:
        got = "x".join(map(str, output.shape)) or "a number"
        raise LoadError(
            f"expected logits of shape {images}x(classes) for {images} images, got {got}; {advice}"
        )
    return output
