"""What a network has to return to be converted."""

from torch import Tensor

from converter.errors import LoadError
from converter.graph.outputs import ONE_FORM, named_tensors


def outputs_of(result: object, images: int, advice: str) -> dict[str, Tensor]:
    """The outputs in ``result``, what a network returned for ``images`` images, by name.

    Raises LoadError for anything but float or integer tensors with an entry an image.
    """
    try:
        outputs = named_tensors(result)
    except TypeError as error:
        raise LoadError(f"expected the network to return {ONE_FORM}, but {error}; {advice}") from error
    for name, output in outputs.items():
        if output.shape[:1] != (images,) or output.numel() == 0:
            got = "x".join(map(str, output.shape)) or "a number"
            if images in output.shape:
                got += f", with the images on axis {output.shape.index(images)}, which has to be the first"
            raise LoadError(
                f"expected outputs of shape {images}x... for {images} images, got {name} of {got}; {advice}"
            )
        if output.is_complex():
            raise LoadError(f"expected outputs of real numbers, got {name} of complex ones; {advice}")
    return outputs
