"""Which task networks of the kinds that people publish have, by their values and by the ends of their graphs."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converter.errors import LoadError, OptionsError
from converter.trust.task.anything import Anything
from converter.trust.task.base import Task, TaskName
from converter.trust.task.classes import Classes
from converter.trust.task.embedding import Embedding
from converter.trust.task.labels import Labels
from converter.trust.task.mask import Mask
from converter.trust.task.recognise import task_from_outputs

SIZE = (48, 64)


class Network(nn.Module):
    """A small network whose last layers are ``end``, a function of its feature maps, a stride of 4 behind the input."""

    def __init__(self, channels: int, end: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, channels, 3, 2, 1, bias=True)
        )
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.body(x))


def outputs_of(channels: int, end: Any) -> dict[str, Tensor]:
    """What the network says to random pixels of different brightness."""
    torch.manual_seed(0)
    x = torch.rand(6, 3, *SIZE) * torch.linspace(0.2, 1, 6).reshape(6, 1, 1, 1)
    with torch.no_grad():
        found = Network(channels, end)(4 * x - 1)
    if isinstance(found, Tensor):
        return {"output": found}
    return dict(found) if isinstance(found, Mapping) else {str(n): value for n, value in enumerate(found)}


def pooled(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def large(x: Tensor) -> Tensor:
    """Maps of the input's size."""
    return F.interpolate(x, size=SIZE, mode="bilinear")


def batch_normed(x: Tensor) -> Tensor:
    return (pooled(x) - pooled(x).mean(dim=0)) / pooled(x).std(dim=0)


# What it is, its channels, what it ends in, what computes its outputs, its task by values alone, and with the end.
KINDS: list[tuple[str, int, Any, str, Task, Task]] = [
    ("classifier", 10, pooled, "Gemm", Classes(10), Classes(10)),
    (
        "classifier, softmax",
        10,
        lambda x: pooled(x).softmax(1),
        "Softmax",
        *[Classes(10, "softmax")] * 2,
    ),
    (
        "classifier, log-softmax",
        512,
        lambda x: pooled(x).log_softmax(1),
        "LogSoftmax",
        *[Classes(512, "log_softmax")] * 2,
    ),
    ("classifier, 1x1", 10, lambda x: pooled(x)[:, :, None, None], "Conv", *[Classes(10)] * 2),
    ("classifier, channels last", 10, lambda x: pooled(x)[:, None, None], "Gemm", *[Classes(10)] * 2),
    ("SqueezeNet", 1000, lambda x: pooled(x.relu()), "adaptive_avg_pool2d", *[Classes(1000)] * 2),
    ("ReLU behind logits", 10, lambda x: pooled(x).relu(), "Relu", *[Classes(10)] * 2),
    ("text direction", 2, lambda x: pooled(x).softmax(1), "Softmax", *[Classes(2, "softmax")] * 2),
    ("binary, (batch)", 1, lambda x: 3 * (pooled(x)[:, 0] - 0.2), "Gemm", *[Classes(1)] * 2),
    ("binary, sigmoid", 1, lambda x: pooled(x).sigmoid(), "Sigmoid", *[Classes(1, "sigmoid")] * 2),
    (
        "binary, logits that look like a sigmoid's",
        1,
        lambda x: 0.3 + 0.1 * torch.rand(len(x), 1),
        "Gemm",
        Classes(1, "sigmoid"),
        Classes(1),
    ),
    ("inception, aux", 10, lambda x: (pooled(x), pooled(x.flip(1))), "Gemm", *[Classes(10)] * 2),
    ("multi-label", 80, lambda x: pooled(x).sigmoid(), "Sigmoid", *[Labels(80)] * 2),
    ("multi-label, 64", 64, lambda x: pooled(x).sigmoid(), "Sigmoid", *[Labels(64)] * 2),
    ("faces, batch norm", 100, batch_normed, "BatchNormalization", Classes(100), Embedding(100)),
    ("faces, (batch, 128)", 128, pooled, "Reshape", *[Embedding(128)] * 2),
    ("CLIP, normalised", 100, lambda x: F.normalize(pooled(x)), "Div", *[Embedding(100)] * 2),
    ("CLIP ViT-L", 768, pooled, "MatMul", *[Embedding(768)] * 2),
    ("OSNet", 512, lambda x: pooled(x).relu(), "relu", *[Embedding(512)] * 2),
    ("features, pooled", 888, lambda x: pooled(x.relu()), "GlobalAveragePool", Classes(888), Embedding(888)),
    (
        "age and gender",
        4,
        lambda x: {"age": pooled(x)[:, :1], "gender": pooled(x)[:, 1:3]},
        "Gemm",
        *[Anything(2, numbers=1)] * 2,
    ),
    (
        "DeepLab",
        21,
        lambda x: {"out": large(x), "aux": large(x.flip(1))},
        "Resize",
        *[Mask(21)] * 2,
    ),
    ("segmentation at a quarter", 19, lambda x: x, "Conv", *[Mask(19)] * 2),
    ("segmentation, softmax of 3", 3, lambda x: large(x).softmax(1), "Softmax", *[Mask(3, "softmax")] * 2),
    ("segmentation, ArgMax", 21, lambda x: large(x).argmax(1), "ArgMax", *[Mask(None)] * 2),
    (
        "segmentation, ArgMax, kept axis and type",
        21,
        lambda x: large(x).argmax(1, keepdim=True).float(),
        "ArgMax",
        Anything(1),
        Mask(None),
    ),
    ("portrait of two", 2, large, "ConvTranspose", *[Mask(2)] * 2),
    ("U-Net, sigmoid", 1, lambda x: large(x).sigmoid(), "Sigmoid", *[Mask(1, "sigmoid")] * 2),
    (
        "super resolution, sigmoid",
        1,
        lambda x: F.pixel_shuffle(x.repeat(1, 64, 1, 1), 8).sigmoid(),
        "Sigmoid",
        *[Anything()] * 2,
    ),
    (
        "U2-Net",
        1,
        lambda x: [large(x).sigmoid()] * 7,
        "Sigmoid",
        *[Mask(1, "sigmoid")] * 2,
    ),
    (
        "saliency, (batch, height, width)",
        1,
        lambda x: large(x).sigmoid()[:, 0],
        "Sigmoid",
        *[Mask(1, "sigmoid")] * 2,
    ),
    ("depth", 1, lambda x: 10 * large(x).relu(), "Relu", *[Anything(1)] * 2),
    ("depth, ReLU below 1", 1, lambda x: (0.1 * large(x)).relu(), "Relu", *[Anything(1)] * 2),
    ("depth at four sizes", 1, lambda x: [x.sigmoid(), large(x).sigmoid()], "Sigmoid", *[Anything(2)] * 2),
    ("style transfer", 3, large, "Conv", *[Anything(1)] * 2),
    ("style transfer, sigmoid", 3, lambda x: large(x).sigmoid(), "Sigmoid", *[Anything(1)] * 2),
    ("feature map", 512, lambda x: x, "Conv", *[Anything(1)] * 2),
    ("feature map behind a ReLU", 24, lambda x: x.relu(), "Relu", Mask(24), Anything(1)),
    ("coarse map", 20, lambda x: F.avg_pool2d(x, 8), "AveragePool", *[Anything(1)] * 2),
    (
        "segmentation, channels last",
        21,
        lambda x: large(x).permute(0, 2, 3, 1),
        "Transpose",
        *[Anything(1)] * 2,
    ),
    ("tokens", 24, lambda x: x.flatten(2).mT, "LayerNormalization", *[Anything(1)] * 2),
    (
        "SSD",
        6,
        lambda x: (x.flatten(2).mT[:, :, :2].softmax(-1), x.flatten(2).mT[:, :, 2:]),
        "Concat",
        *[Anything(2)] * 2,
    ),
    (
        "YOLO-FastestV2",
        95,
        lambda x: (x[:, :12], x[:, 12:15], x[:, 15:], F.avg_pool2d(x, 2)[:, :12]),
        "Conv",
        *[Anything(4)] * 2,
    ),
]


@pytest.mark.parametrize("known", [False, True], ids=["values", "ends"])
@pytest.mark.parametrize("kind", KINDS, ids=[kind[0] for kind in KINDS])
def test_published_kinds(kind: tuple[str, int, Any, str, Task, Task], known: bool) -> None:
    _, channels, end, computed_by, by_values, by_end = kind
    outputs = outputs_of(channels, end)
    ends = dict.fromkeys(outputs, computed_by) if known else {}
    task, line = task_from_outputs("auto", outputs, SIZE, ends)
    assert task == (by_end if known else by_values)
    assert line.startswith(f"task: {task.name} ({task.describe()}")
    # What was recognised may be asked for as well.
    assert task_from_outputs(task.name, outputs, SIZE, ends)[0] == task


def test_lines() -> None:
    def said(asked: Any, channels: int, end: Any, **known: Any) -> str:
        return task_from_outputs(asked, outputs_of(channels, end), SIZE, **known)[1]

    assert said("auto", 10, pooled) == "task: classes (10 classes); --task names another"
    assert said("classes", 10, pooled) == "task: classes (10 classes), by --task"
    assert said("auto", 256, pooled) == (
        "task: embedding (vectors of 256 values, a multiple of 64 and behind no softmax); --task classes, if these "
        "are logits"
    )
    assert "behind PReLU; --task classes" in said("auto", 100, pooled, ends={"output": "PReLU"}).replace(
        ")", ""
    )
    assert "all of length 1" in said("auto", 100, lambda x: F.normalize(pooled(x)))
    assert said("auto", 24, lambda x: x.flatten(2).mT).endswith(
        "no other task fits; --decode FILE.py:CALLABLE, if these are a detector's boxes"
    )


def test_class_names_are_those_of_a_classifier() -> None:
    names = tuple(map(str, range(256)))
    outputs = outputs_of(256, pooled)
    assert task_from_outputs("auto", outputs, SIZE, {}, names)[0] == Classes(256)
    assert task_from_outputs("auto", outputs, SIZE, {}, names[:10])[0] == Embedding(256)
    beside = {"features": outputs["output"], "logits": outputs["output"][:, :5]}
    assert task_from_outputs("auto", beside, SIZE, {}, names[:5])[0] == Classes(5, index=1)


@pytest.mark.parametrize(
    ("asked", "channels", "end", "task"),
    [
        ("classes", 128, pooled, Classes(128)),
        ("classes", 80, lambda x: pooled(x).sigmoid(), Classes(80, "sigmoid")),
        ("labels", 10, pooled, Labels(10, "logits")),
        ("embedding", 10, pooled, Embedding(10)),
        ("mask", 1, large, Mask(1)),
        ("mask", 3, large, Mask(3)),
        ("mask", 512, lambda x: (pooled(x), x), Mask(512, index=1)),
        ("mask", 20, lambda x: F.avg_pool2d(x, 6), Mask(20)),
        ("mask", 5, lambda x: (large(x).argmax(1), large(x)), Mask(5, index=1)),
        ("any", 10, pooled, Anything(1)),
        ("any", 6, lambda x: x.reshape(len(x), 2, 3, *x.shape[2:]), Anything(1)),
    ],
)
def test_what_is_asked_for_counts(asked: TaskName, channels: int, end: Any, task: Task) -> None:
    assert task_from_outputs(asked, outputs_of(channels, end), SIZE)[0] == task


@pytest.mark.parametrize(
    ("asked", "channels", "end", "fits"),
    [
        ("mask", 10, pooled, "classes or labels or embedding or any"),
        ("boxes", 10, pooled, "classes or labels or embedding or any"),
        ("labels", 10, lambda x: pooled(x).softmax(1), "classes or embedding or any"),
        ("embedding", 1, pooled, "classes or labels or any"),
        ("classes", 21, large, "mask or any"),
        ("classes", 21, lambda x: large(x).argmax(1), "mask"),
        ("any", 21, lambda x: large(x).argmax(1), "mask"),
    ],
)
def test_what_the_outputs_contradict_is_refused(asked: TaskName, channels: int, end: Any, fits: str) -> None:
    outputs = outputs_of(channels, end)
    with pytest.raises(OptionsError) as refused:
        task_from_outputs(asked, outputs, SIZE)
    sides = ", ".join(map(str, outputs["output"].shape[1:]))
    assert str(refused.value).startswith(f"--task {asked} requires ")
    assert f"but the output is output (batch, {sides})" in str(refused.value)
    assert str(refused.value).endswith(f"type --task {fits}, or leave --task out")


@pytest.mark.parametrize("asked", ["auto", "classes", "mask", "any"])
@pytest.mark.parametrize(
    ("outputs", "ends", "words"),
    [
        ({"label": torch.zeros(6, dtype=torch.int64)}, {}, "ArgMax"),
        ({"label": torch.zeros(6, 1)}, {"label": "ArgMax"}, "behind an ArgMax"),
        ({"selected": torch.zeros(17, 3, dtype=torch.int64)}, {}, "of int64"),
    ],
)
def test_choices_alone_are_refused(
    asked: Any, outputs: dict[str, Tensor], ends: dict[str, str], words: str
) -> None:
    with pytest.raises(LoadError, match=words):
        task_from_outputs(asked, outputs, SIZE, ends)


def test_what_no_task_has_is_refused() -> None:
    with pytest.raises(LoadError, match=r"of at most 4 dimensions.*\(batch, 3, 6, 8, 85\); --task any"):
        task_from_outputs("auto", {"raw": torch.rand(4, 3, 6, 8, 85)}, SIZE)
    with pytest.raises(LoadError, match=r"an entry for each input.*non-maximum suppression"):
        task_from_outputs("auto", {"boxes": torch.rand(4, 20, 4), "kept": torch.rand(17, 7)}, SIZE)
    with pytest.raises(LoadError, match="an entry for each input"):
        task_from_outputs("auto", {"logits": torch.rand(4, 20), "scale": torch.tensor(2.0)}, SIZE)
    assert task_from_outputs("classes", {"scale": torch.tensor(2.0), "logits": torch.randn(4, 20)}, SIZE)[
        0
    ] == Classes(20, index=1)


def test_a_detector_is_known_by_its_layout() -> None:
    asked: list[tuple[dict[str, torch.Size], tuple[int, int]]] = []

    def boxes_from(outputs: Mapping[str, Tensor], size: tuple[int, int]) -> Task | None:
        asked.append(({name: values.shape for name, values in outputs.items()}, size))
        return Anything(99) if outputs["0"].shape[-1] == 4 else None

    ssd = {"0": torch.rand(4, 20, 4), "1": torch.rand(4, 20, 2)}
    assert task_from_outputs("auto", ssd, SIZE, boxes_from=boxes_from)[0] == Anything(99)
    assert task_from_outputs("boxes", ssd, SIZE, boxes_from=boxes_from)[0] == Anything(99)
    selected = {"0": torch.rand(17, 4), "1": torch.rand(4, 20, 2)}
    assert task_from_outputs("auto", selected, SIZE, boxes_from=boxes_from)[0] == Anything(99)
    assert asked[0] == ({"0": (4, 20, 4), "1": (4, 20, 2)}, SIZE)
    tokens = {"0": torch.rand(4, 20, 5)}
    assert task_from_outputs("auto", tokens, SIZE, boxes_from=boxes_from)[0] == Anything(1)
    asked.clear()
    assert task_from_outputs("auto", {"0": torch.rand(4, 4) - 0.5}, SIZE, boxes_from=boxes_from)[
        0
    ] == Classes(4)
    assert asked == []
