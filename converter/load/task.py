"""What the outputs of a teacher mean, as the user says or as they show."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from calibrators.data.batches import random_pixels
from converter.load.ends import ends_of_module, ends_of_onnx
from converter.load.model import Teacher
from converter.load.user_module import decoder_from_callable
from converter.trust.task.base import Task, TaskName
from converter.trust.task.box_decoder import DecodedBoxes
from converter.trust.task.box_layouts import layout_from_outputs
from converter.trust.task.boxes import Boxes
from converter.trust.task.recognise import task_from_outputs


def task_of(teacher: Teacher, asked: TaskName | Literal["auto"], decode: str | None) -> tuple[Task, str]:
    """The task that ``--task`` and ``--decode`` ask for, or that the outputs show, and the line that says so.

    Raises OptionsError where the outputs contradict it, LoadError where no task suits them, DecodeError for a function
    that fails.
    """
    if decode is not None:
        names = tuple(teacher.probe)
        task: Task = DecodedBoxes(decoder_from_callable(decode), decode, names)
        task.answers(tuple(output.numpy() for output in teacher.probe.values()))
        return task, f"task: boxes ({task.describe()})"
    _, height, width = teacher.spec.shape
    return task_from_outputs(
        asked,
        teacher.probe,
        (height, width),
        ends_of(teacher),
        teacher.class_names,
        _boxes_from,
        _chosen_from(teacher),
    )


def _chosen_from(teacher: Teacher) -> str | None:
    """The output of which the network's tail takes the best class."""
    tail = teacher.tail
    if tail is None or tail.among_classes is None:
        return None
    return dict(zip(tail.head_outputs, teacher.probe, strict=True))[tail.among_classes]


def _boxes_from(outputs: Mapping[str, Tensor], size: tuple[int, int]) -> Task | None:
    layout = layout_from_outputs(tuple(outputs.values()), size)
    return None if layout is None else Boxes(layout)


def ends_of(teacher: Teacher) -> dict[str, str]:
    """Output -> what computes it, but for what changes its shape alone; left out where that is not known."""
    if teacher.onnx is None:
        return ends_of_module(teacher.module, random_pixels(teacher.spec, 2, 0))
    names = dict(zip((v.name for v in teacher.onnx.graph.output), teacher.probe, strict=True))
    return {names[name]: end for name, end in ends_of_onnx(teacher.onnx).items()}
