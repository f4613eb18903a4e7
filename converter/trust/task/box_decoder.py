"""Detectors whose boxes the user's own function decodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from converter.errors import DecodeError
from converter.trust.task.anything import Anything
from converter.trust.task.base import Outputs, Tensors
from converter.trust.task.boxes import MOST_BOXES, FoundBoxes
from converter.trust.task.heads import Heads
from converter.trust.task.mean_precision import mean_average_precision

Decode = Callable[[Mapping[str, np.ndarray[Any, Any]]], Any]

EXPECTED = (
    "expected a list with (boxes [k, 4] as x1, y1, x2, y2 in pixels of the input, scores [k], classes [k]) "
    "for each "
)


@dataclass(frozen=True)
class DecodedBoxes(FoundBoxes):
    """``decode``, called ``source`` by the user, makes boxes of all outputs by their ``names``."""

    decode: Decode
    source: str
    names: tuple[str, ...]
    threshold: float = 0.25
    metric: str = "mAP"

    def describe(self) -> str:
        return f"boxes by {self.source}"

    def heads(self, outputs: Tensors) -> Heads:
        """Those of outputs of any meaning: the user's function can't be differentiated."""
        return Anything(len(self.names)).heads(outputs)

    def answers(self, outputs: Outputs) -> Sequence[Float[np.ndarray, "_ 6"]]:
        """The user's boxes of each input. Raises DecodeError for what the function raises and for other shapes."""
        try:
            images = self.decode(dict(zip(self.names, outputs, strict=True)))
        except Exception as error:  # the user's function can raise anything
            raise DecodeError(
                f"--decode {self.source} raised {type(error).__name__}: {error}; it is called with a dict of the "
                f"outputs {', '.join(f'{n} {list(v.shape)}' for n, v in zip(self.names, outputs, strict=True))}"
            ) from error
        count, listed = len(outputs[0]), isinstance(images, list | tuple)
        if not listed or len(images) != count:
            came = len(images) if listed else type(images).__name__
            raise DecodeError(f"--decode {self.source}: {EXPECTED}of {count} images, got {came}")
        return [self._checked(image, index) for index, image in enumerate(images)]

    def _checked(self, image: Any, index: int) -> Float[np.ndarray, "_ 6"]:
        """An image's boxes as one array, the best first."""
        place = f"--decode {self.source}: {EXPECTED}image, got "
        if not isinstance(image, list | tuple) or len(image) != 3:
            parts = f" of {len(image)}" if isinstance(image, list | tuple) else ""
            raise DecodeError(f"{place}a {type(image).__name__}{parts} for image {index}")
        try:
            boxes, scores, classes = (np.asarray(part, dtype=np.float32) for part in image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DecodeError(f"{place}no array of numbers for image {index}: {error}") from error
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        shapes = boxes.shape, scores.shape, classes.shape
        if shapes != ((len(boxes), 4), (len(boxes),), (len(boxes),)):
            raise DecodeError(f"{place}{', '.join(str(list(s)) for s in shapes)} for image {index}")
        found = np.concatenate([boxes, scores[:, None], classes[:, None]], axis=1)
        if not np.isfinite(found).all():
            raise DecodeError(f"{place}NaN or infinity for image {index}")
        return found[np.argsort(-scores, kind="stable")][:MOST_BOXES]

    def accuracy(
        self, answers: Sequence[Float[np.ndarray, "_ 6"]], truths: Sequence[Shaped[np.ndarray, "_ 5"]]
    ) -> float:
        """mAP@[.5:.95] in percent."""
        return mean_average_precision(answers, truths)
