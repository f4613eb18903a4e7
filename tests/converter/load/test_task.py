"""The task of a network: what computes its outputs, what the user says, and what contradicts it."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from converter.errors import DecodeError, OptionsError
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.load.task import ends_of, task_of
from converter.options import ConvertOptions
from converter.trust.task.base import Task, TaskName
from converter.trust.task.classes import Classes
from tests.converter.networks import randomised
from tests.converter.task_networks import Detector, Plain, Segmenter

NETWORKS = Path(__file__).parents[1] / "task_networks.py"
DECODERS = """
import numpy as np

def whole(outputs):
    count = len(outputs["output_0"])
    return [(np.array([[0.0, 0.0, 8.0, 8.0]]), np.array([0.9]), np.array([1]))] * count

def broken(outputs):
    return outputs["boxes"]

def flat(outputs):
    return [0] * len(outputs["output_0"])
"""


def options_of(network: nn.Module, folder: Path) -> ModelOptions:
    torch.manual_seed(0)
    torch.save(randomised(network).state_dict(), folder / "net.pth")
    arch = f"{NETWORKS}:{type(network).__name__}"
    return ModelOptions(str(folder / "net.pth"), arch=arch, input_shape=(3, 32, 32), preset="unit")


def task_for(
    network: nn.Module, folder: Path, asked: TaskName | Literal["auto"] = "auto", decode: str | None = None
) -> tuple[Task, str]:
    given = options_of(network, folder)
    return task_of(load_model(given), asked, decode)


def test_ends_of_a_teacher(tmp_path: Path) -> None:
    assert ends_of(load_model(options_of(Plain(), tmp_path))) == {"logits": "linear"}
    assert ends_of(load_model(options_of(Segmenter(), tmp_path))) == {"out": "interpolate"}
    assert ends_of(load_model(options_of(Detector(), tmp_path))) == {"output_0": "sigmoid", "output_1": "cat"}


def exported(network: nn.Module, folder: Path) -> Teacher:
    program = torch.export.export(
        randomised(network), (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / "net.pt2")
    return load_model(ModelOptions(str(folder / "net.pt2"), preset="unit"))


def test_ends_of_a_file_with_a_graph(tmp_path: Path) -> None:
    teacher = exported(Detector(), tmp_path)
    assert list(teacher.probe) == ["output_0", "output_1"]
    assert ends_of(teacher) == {"output_0": "Sigmoid", "output_1": "Concat"}


@pytest.mark.parametrize(
    ("network", "name", "said"),
    [
        (Plain, "classes", "task: classes (7 classes); --task names another"),
        (Segmenter, "mask", "task: mask ("),
        (Detector, "boxes", "task: boxes (boxes: scores of 2 classes and boxes by corners)"),
    ],
)
def test_recognised(network: type[nn.Module], name: str, said: str, tmp_path: Path) -> None:
    task, line = task_for(network(), tmp_path)
    assert task.name == name
    assert line.startswith(said)


def test_the_same_of_the_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = exported(Detector(), tmp_path)
    task, _ = task_of(teacher, "auto", None)
    assert task.name == "boxes"
    found = task.answers(tuple(output.numpy() for output in teacher.probe.values()))
    assert [boxes.shape[1] for boxes in found] == [6] * 4


@pytest.mark.parametrize(
    ("network", "asked"), [(Plain, "labels"), (Plain, "embedding"), (Segmenter, "any"), (Detector, "any")]
)
def test_what_is_asked_for_counts(network: type[nn.Module], asked: TaskName, tmp_path: Path) -> None:
    task, line = task_for(network(), tmp_path, asked)
    assert task.name == asked
    assert line.endswith(", by --task")


@pytest.mark.parametrize(
    ("network", "asked", "instead"),
    [
        (Plain, "mask", "--task classes or labels or embedding or any"),
        (Plain, "boxes", "--task classes or labels or embedding or any"),
        (Segmenter, "classes", "--task mask or any"),
        (Detector, "mask", "--task boxes or any"),
    ],
)
def test_a_task_that_the_outputs_contradict(
    network: type[nn.Module], asked: TaskName, instead: str, tmp_path: Path
) -> None:
    with pytest.raises(
        OptionsError, match=f"--task {asked} requires .*; type {instead}, or leave --task out"
    ):
        task_for(network(), tmp_path, asked)


def test_the_users_function_finds_boxes(tmp_path: Path) -> None:
    (tmp_path / "decoders.py").write_text(DECODERS)
    task, line = task_for(Detector(), tmp_path, decode=f"{tmp_path / 'decoders.py'}:whole")
    assert (task.name, task.metric) == ("boxes", "mAP")
    assert line == f"task: boxes (boxes by {tmp_path / 'decoders.py'}:whole)"
    (answer,) = task.answers((torch.zeros(1, 80, 2).numpy(), torch.zeros(1, 80, 4).numpy()))
    assert answer.tolist() == [[0, 0, 8, 8, pytest.approx(0.9), 1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "raised KeyError: 'boxes'; it is called with a dict of the outputs output_0 .*, output_1"),
        ("flat", r"expected a list with \(boxes .*, got a int for image 0"),
        ("absent", "there is no absent in it; it has broken, "),
    ],
)
def test_a_function_that_finds_none_fails_before_any_work(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "decoders.py").write_text(DECODERS)
    with pytest.raises(DecodeError, match=message):
        task_for(Detector(), tmp_path, decode=f"{tmp_path / 'decoders.py'}:{name}")


def test_decode_and_another_task_exclude_each_other() -> None:
    with pytest.raises(OptionsError, match="--decode finds boxes, but --task is mask"):
        ConvertOptions(ModelOptions("net.pth"), task="mask", decode="a.py:b")


def teacher_with(forward: str, folder: Path) -> Teacher:
    """A linear layer of 4 classes behind a mean, with ``forward`` as its last lines."""
    (folder / "choice.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.fc = torch.nn.Linear(3, 4)\n    def forward(self, x):\n        {forward}\n"
    )
    state = {f"fc.{name}": value for name, value in nn.Linear(3, 4).state_dict().items()}
    torch.save(state, folder / "net.pth")
    return load_model(
        ModelOptions(
            str(folder / "net.pth"), arch=f"{folder / 'choice.py'}:Net", input_shape=(3, 8, 8), preset="unit"
        )
    )


def test_a_choice_is_looked_through(tmp_path: Path) -> None:
    teacher = teacher_with("return self.fc(x.mean((2, 3))).argmax(1, keepdim=True)", tmp_path)
    task, _ = task_of(teacher, "auto", None)
    assert (task.name, task.classes) == ("classes", 4)


def test_the_best_as_numbers_are_a_choice_too(tmp_path: Path) -> None:
    forward = "best, which = self.fc(x.mean((2, 3))).softmax(1).topk(2); return best, which.float()"
    teacher = teacher_with(forward, tmp_path)
    assert teacher.tail is not None
    assert teacher.tail.chosen_by == ("TopK",)
    assert task_of(teacher, "auto", None)[0] == Classes(4, "softmax")
