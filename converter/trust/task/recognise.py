"""Which task a network has, from what it says to a few different inputs and from the ends of its graph."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from converter.errors import LoadError, OptionsError
from converter.trust.task.anything import Anything
from converter.trust.task.base import Task, TaskName
from converter.trust.task.classes import Classes
from converter.trust.task.embedding import Embedding
from converter.trust.task.final import Final, final_of
from converter.trust.task.labels import Labels
from converter.trust.task.mask import Mask

BoxesFrom = Callable[[Mapping[str, Tensor], tuple[int, int]], Task | None]
"""A detector's task, from its outputs and the height and width of its input; None where the outputs are no boxes."""

_NO_ENDS: Mapping[str, str] = MappingProxyType({})

_FEATURES = {
    "batchnormalization",
    "batchnorm",
    "instancenormalization",
    "instancenorm",
    "layernormalization",
    "layernorm",
    "lpnormalization",
    "prelu",
    "tanh",
}
"""Ends that logits don't have."""
_POOLED = {
    "globalaveragepool",
    "globalmaxpool",
    "averagepool",
    "maxpool",
    "avgpool2d",
    "maxpool2d",
    "adaptiveavgpool2d",
    "adaptivemaxpool2d",
    "reducemean",
    "reducemax",
    "mean",
    "amax",
    "relu",
}
"""Ends of features, but also of some classifiers without a last linear layer, as SqueezeNet is."""
_UNBOUNDED = {
    *(_POOLED | _FEATURES),
    *(
        "gemm",
        "matmul",
        "linear",
        "addmm",
        "add",
        "conv",
        "conv2d",
        "convtranspose",
        "convtranspose2d",
        "clip",
    ),
}
"""Ends whose values lie between 0 and 1 by chance alone."""
_NO_OTHER = "no other task fits; --decode FILE.py:CALLABLE, if these are a detector's boxes"
_WIDTHS = 64
"""Widths of layers are multiples of it, numbers of classes hardly ever."""
_IMAGENET = 1000
_MOST_PIXEL_CLASSES = 256
_STRIDE = 16
"""The largest from a segmenter's input to its output; detectors and backbones go on to 32."""
_MOST_ZEROS = 0.01
"""The share that a sigmoid may round to 0; a ReLU gives more."""
_MOST_LOOKED_AT = 64
"""Pixels along each side."""


@dataclass(frozen=True)
class _Output:
    """The ``index``-th output: its name, values, and what computes them, which is empty where it is unknown.

    ``chosen_from``: the network goes on to take the best of its second axis.
    """

    index: int
    name: str
    values: Tensor
    computed_by: str
    chosen_from: bool = False

    @property
    def end(self) -> str:
        """``computed_by`` as the tables have it."""
        return self.computed_by.lower().replace("_", "")

    @property
    def decided(self) -> bool:
        """Holds choices and no numbers that could be compared."""
        return not self.values.is_floating_point() or self.end == "argmax"

    @property
    def columns(self) -> int | None:
        """Of one vector an input; None for anything else."""
        sides = self.values.shape[1:]
        return math.prod(sides) if max(sides, default=1) == math.prod(sides) else None

    @property
    def map_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of (batch, channels, height, width) or (batch, height, width)."""
        sides = tuple(self.values.shape[1:])
        if len(sides) not in (2, 3) or self.columns is not None:
            return None
        return (*((1,) if len(sides) == 2 else ()), *sides)  # type: ignore[return-value]

    @property
    def final(self) -> Final:
        """What made the values; the end of the graph counts for a sigmoid alone, which values may look like."""
        if self.columns is not None:
            values = self.values.reshape(len(self.values), self.columns)
        else:
            down, across = (-(-side // _MOST_LOOKED_AT) for side in self.values.shape[-2:])
            values = self.values[..., ::down, ::across]
            values = values.unsqueeze(1) if values.dim() == 3 else values
        found = final_of(values)
        if found in ("softmax", "log_softmax"):
            return found
        if found == "sigmoid" and self.end not in _UNBOUNDED:
            found = "sigmoid" if float((values == 0).float().mean()) <= _MOST_ZEROS else "logits"
        else:
            found = "logits"
        return "sigmoid" if self.end in ("sigmoid", "hardsigmoid") else found

    def shown(self) -> str:
        sides = ", ".join(["batch", *map(str, self.values.shape[1:])])
        kind = (
            "" if self.values.is_floating_point() else f" of {str(self.values.dtype).removeprefix('torch.')}"
        )
        return f"{self.name} ({sides}){kind}{' behind an ArgMax' if self.end == 'argmax' else ''}"


@dataclass(frozen=True)
class _Probe:
    """All that is known of a network."""

    outputs: Sequence[_Output]
    input_size: tuple[int, int]
    class_names: Sequence[str] | None
    boxes_from: BoxesFrom | None

    @property
    def floats(self) -> Sequence[_Output]:
        """What can be compared, without single numbers for the whole batch."""
        return [output for output in self.outputs if not output.decided and output.values.dim() > 0]

    @property
    def choices(self) -> Sequence[_Output]:
        """Maps of classes behind an ArgMax."""
        return [
            o for o in self.outputs if o.decided and self.covers(o) and o.map_shape and o.map_shape[0] == 1
        ]

    @property
    def batched(self) -> bool:
        """Whether every output has an entry an input."""
        return all(output.values.dim() for output in self.outputs) and (
            len({len(output.values) for output in self.outputs}) == 1
        )

    def shown(self) -> str:
        return f"the output{'s are' if len(self.outputs) > 1 else ' is'} {', '.join(o.shown() for o in self.outputs)}"

    def boxes(self) -> Task | None:
        if self.boxes_from is None:
            return None
        return self.boxes_from({output.name: output.values for output in self.outputs}, self.input_size)

    def covers(self, output: _Output) -> bool:
        """Whether the output is a map of the input's proportions, not larger and not too coarse to show objects."""
        if output.map_shape is None:
            return False
        (height, width), (of, across) = output.map_shape[1:], self.input_size
        fits = height <= of <= height * _STRIDE and width <= across <= width * _STRIDE
        return fits and abs(height * across - width * of) <= max(of, across)


@dataclass(frozen=True)
class _Found:
    """A task, perhaps why, and what to type for another."""

    task: Task
    why: str = ""
    instead: str = "--task names another"


def task_from_outputs(
    asked: TaskName | Literal["auto"],
    outputs: Mapping[str, Tensor],
    input_size: tuple[int, int],
    ends: Mapping[str, str] = _NO_ENDS,
    class_names: Sequence[str] | None = None,
    boxes_from: BoxesFrom | None = None,
    chosen_from: str | None = None,
) -> tuple[Task, str]:
    """The task that is ``asked`` for, or that the outputs show where it is "auto", and the line that says so.

    ``outputs`` are those of at least four different inputs of the height and width ``input_size``. ``ends`` has for
    outputs the ONNX operator or the function of PyTorch that computes them, behind which their shape or type alone
    changes. ``class_names`` are known for classifiers; the values of the output ``chosen_from`` are those of classes.
    Raises OptionsError for a task that the outputs contradict,
    and LoadError for outputs that no task has.
    """
    found = [
        _Output(index, name, values.detach(), ends.get(name, ""), name == chosen_from)
        for index, (name, values) in enumerate(outputs.items())
    ]
    probe = _Probe(found, input_size, class_names, boxes_from)
    if asked != "auto":
        task = _task_as_asked(asked, probe)
        return task, f"task: {task.name} ({task.describe()}), by --task"
    known = _recognised(probe)
    why = f", {known.why}" if known.why else ""
    return known.task, f"task: {known.task.name} ({known.task.describe()}{why}); {known.instead}"


def _task_as_asked(asked: TaskName, probe: _Probe) -> Task:
    expected, make = _ASKED[asked]
    task = make(probe)
    if task is not None:
        return task
    fitting = _fitting(probe)
    if not fitting:
        raise LoadError(_unusable(probe))
    raise OptionsError(
        f"--task {asked} requires {expected}, but {probe.shown()}; type --task {' or '.join(fitting)}, or leave "
        "--task out"
    )


def _fitting(probe: _Probe) -> Sequence[TaskName]:
    """The tasks that may be asked for."""
    return [name for name, (_, make) in _ASKED.items() if make(probe) is not None]


def _unusable(probe: _Probe) -> str:
    if not probe.floats:
        return (
            f"expected an output of floating point numbers, as choices don't show how large INT8's error is, but "
            f"{probe.shown()}; give MODEL without what chooses at its end (ArgMax, TopK)"
        )
    if not probe.batched:
        return (
            f"expected outputs with an entry for each input, but {probe.shown()}; give MODEL without what selects "
            "at its end (non-maximum suppression)"
        )
    return (
        f"expected outputs of at most 4 dimensions, but {probe.shown()}; --task any compares them as they are"
    )


def _classes_as_asked(probe: _Probe) -> Task | None:
    for output in probe.floats:
        if output.columns is not None:
            return Classes(output.columns, output.final, output.index)
    return None


def _labels_as_asked(probe: _Probe) -> Task | None:
    """None for a softmax, whose values aren't independent."""
    for output in probe.floats:
        if output.columns is not None and output.final in ("logits", "sigmoid"):
            return Labels(output.columns, output.final, output.index)
    return None


def _embedding_as_asked(probe: _Probe) -> Task | None:
    for output in probe.floats:
        if output.columns is not None and output.columns > 1:
            return Embedding(output.columns, output.index)
    return None


def _mask_as_asked(probe: _Probe) -> Task | None:
    """Of the first map that has the input's proportions, else of the first map; logits before an ArgMax's choices."""
    for maps in (
        [output for output in probe.floats if probe.covers(output)],
        [output for output in probe.floats if output.map_shape and output.values.dim() == 4],
        probe.choices,
    ):
        if maps:
            return _mask_of(maps[0])
    return None


def _any_as_asked(probe: _Probe) -> Task | None:
    return _anything(probe.floats) if probe.floats and probe.batched else None


_ASKED: Mapping[TaskName, tuple[str, Callable[[_Probe], Task | None]]] = {
    "classes": ("an output (batch, classes) of floating point numbers", _classes_as_asked),
    "labels": ("an output (batch, labels) of logits or sigmoids", _labels_as_asked),
    "boxes": ("the outputs of a detector whose layout is known", _Probe.boxes),
    "mask": (
        "an output (batch, classes, height, width), or (batch, height, width) behind an ArgMax",
        _mask_as_asked,
    ),
    "embedding": ("an output (batch, values) of at least 2 floating point numbers", _embedding_as_asked),
    "any": ("outputs of floating point numbers with an entry for each input", _any_as_asked),
}
"""What each task requires, and how it is made; None where the outputs contradict it."""


def _recognised(probe: _Probe) -> _Found:
    """What the outputs show; LoadError where they show nothing."""
    floats = probe.floats
    found = None
    if probe.batched and floats:
        if all(output.columns is not None for output in floats):
            found = _from_vectors(floats, probe.class_names)
        elif all(probe.covers(output) for output in floats):
            found = _from_maps(floats)
    if found is None and (task := probe.boxes()) is not None:
        found = _Found(task)
    if found is None and probe.batched and probe.choices:
        found = _Found(_mask_of(probe.choices[0]))
    if found is not None:
        return found
    if not floats or not probe.batched or any(output.values.dim() > 4 for output in floats):
        raise LoadError(_unusable(probe))
    others = len(_fitting(probe)) > 1
    return _Found(_anything(floats), instead=_Found.instead if others else _NO_OTHER)


def _anything(outputs: Sequence[_Output]) -> Anything:
    return Anything(len(outputs), sum(output.columns == 1 for output in outputs))


def _from_vectors(outputs: Sequence[_Output], class_names: Sequence[str] | None) -> _Found | None:
    """Of vectors of one length, the first; of several lengths, the one that the class names fit, else none."""
    named = [output for output in outputs if class_names is not None and output.columns == len(class_names)]
    if len({output.columns for output in outputs}) > 1 and not named:
        return None
    output = [*named, *outputs][0]
    columns, final, index = output.columns or 1, output.final, output.index
    if final == "sigmoid" and columns > 1:
        return _Found(Labels(columns, final, index))
    known = named or output.chosen_from
    why = "" if final != "logits" or known or columns == 1 else _why_embedding(output)
    if why:
        return _Found(Embedding(columns, index), why, "--task classes, if these are logits")
    return _Found(Classes(columns, final, index))


def _why_embedding(output: _Output) -> str:
    """A few words; empty where the values may be logits."""
    columns, end = output.columns or 1, output.end
    lengths = output.values.double().reshape(-1, columns).norm(dim=1)
    if bool(((lengths - 1).abs() <= 1e-3).all()):
        return "all of length 1"
    pooled = end in _POOLED and columns >= _WIDTHS and columns % 8 == 0 and columns != _IMAGENET
    if end in _FEATURES or pooled:
        return f"behind {output.computed_by}"
    return f"a multiple of {_WIDTHS} and behind no softmax" if columns % _WIDTHS == 0 else ""


def _from_maps(outputs: Sequence[_Output]) -> _Found | None:
    """The first of maps that are all alike, if it may be a mask."""
    if len({tuple(output.values.shape) for output in outputs}) > 1:
        return None
    output = outputs[0]
    channels, final = (output.map_shape or (1, 0, 0))[0], output.final
    if output.chosen_from:
        may_be = True
    elif channels == 1:
        may_be = final == "sigmoid"
    elif final in ("softmax", "log_softmax"):
        may_be = True
    else:
        wide = channels > _MOST_PIXEL_CLASSES or channels % _WIDTHS == 0
        may_be = channels != 3 and not wide and output.end not in _POOLED | _FEATURES
    return _Found(_mask_of(output)) if may_be else None


def _mask_of(output: _Output) -> Mask:
    if output.decided:
        return Mask(None, index=output.index)
    return Mask((output.map_shape or (1,))[0], output.final, output.index)
