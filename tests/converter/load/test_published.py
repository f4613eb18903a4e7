"""What the files beside the weights say of the input, against the libraries' own preparation of images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.data.input_spec import InputSpec
from converter.errors import LoadError
from converter.load.input_choice import choose_input
from converter.load.input_spec import Origin
from converter.load.options import ModelOptions
from converter.load.published import Published, published_beside, published_in

RESNET = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "num_channels": 3}


def published(folder: Path, config: object, processor: object = None) -> Published:
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    found = published_in(folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.5]}, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)),
        ({"image_mean": 0.5, "image_std": 0.25, "rescale_factor": 1 / 255}, (0.5,), (0.25,)),
        ({"do_normalize": False, "image_mean": [0.5], "image_std": [0.5]}, (0.0,), (1.0,)),
        ({"do_normalize": False, "do_rescale": False}, (0.0,), (1 / 255,)),
        ({"do_rescale": False, "image_mean": [51.0], "image_std": [102.0]}, (0.2,), (0.4,)),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, (0.5,), (0.5,)),
    ],
)
def test_normalisation_by_hand(processor: dict[str, Any], mean: object, std: object, tmp_path: Path) -> None:
    found = published(tmp_path, RESNET, processor)
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("ViT", {"size": {"height": 32, "width": 32}}),
        ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),
        ("EfficientNet", {"size": {"height": 32, "width": 32}}),
        ("EfficientNet", {"size": {"height": 32, "width": 32}, "include_top": False}),
        ("MobileNetV2", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
        ("MobileViT", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
    ],
)
def test_the_processors_of_transformers(kind: str, given: dict[str, Any], tmp_path: Path) -> None:
    """A picture of one colour comes out as our mean and deviation say."""
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{kind}ImageProcessor")(**given)
    processor.save_pretrained(tmp_path)
    found = published(tmp_path, RESNET | {"image_size": 999})
    assert found.shape == (3, 32, 32)
    assert found.mean is not None
    assert found.std is not None
    colour = np.array([30, 100, 220], np.uint8)
    theirs = processor(np.tile(colour, (64, 64, 1)), return_tensors="np")["pixel_values"][0]
    assert theirs.shape == (3, 32, 32)
    ours = (colour / 255 - np.array(found.mean)) / np.array(found.std)
    np.testing.assert_allclose(theirs[:, 16, 16], ours[::-1] if found.bgr else ours, atol=1e-4)
    assert found.bgr == (kind == "MobileViT")
    assert found.resize == {"ConvNext": 36, "MobileNetV2": 40, "MobileViT": 40}.get(kind)


@pytest.mark.parametrize("level", ["pretrained_cfg", None])
def test_timm(level: str | None, tmp_path: Path) -> None:
    entries = {"input_size": [3, 288, 288], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "crop_pct": 0.95}
    config = {"architecture": "resnet26d", "num_classes": 2, "label_names": ["cat", "dog"]}
    found = published(tmp_path, config | ({level: entries} if level else entries))
    assert (found.arch, found.classes, found.class_names) == ("timm:resnet26d", 2, ("cat", "dog"))
    assert (found.shape, found.resize) == ((3, 288, 288), 303)
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_labels(tmp_path: Path) -> None:
    named = RESNET | {"id2label": {"0": "cat", "1": "dog"}}
    assert published(tmp_path, named).class_names == ("cat", "dog")
    assert published(tmp_path, RESNET | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).class_names is None
    assert published(tmp_path, RESNET | {"id2label": {"0": "cat", "2": "dog"}}).class_names is None


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        (
            RESNET | {"image_size": "large", "id2label": 3},
            {"size": -3, "image_mean": "x", "image_std": [1, None]},
        ),
        (
            RESNET | {"num_channels": None},
            {"size": [1, 2, 3], "rescale_factor": 0, "image_processor_type": 7},
        ),
        ({"architecture": "resnet18", "pretrained_cfg": 3, "model_args": []}, None),
        ({"model_type": "resnet"}, {"image_mean": [0.5], "image_std": [0.0]}),
    ],
)
def test_values_of_other_kinds_say_nothing(config: object, processor: object, tmp_path: Path) -> None:
    found = published(tmp_path, config, processor)
    assert (found.shape, found.mean, found.std, found.class_names) == (None,) * 4


def test_a_config_of_anything_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"learning_rate": 0.1}')
    assert published_in(tmp_path) is None
    (tmp_path / "config.json").write_text("[1, 2")
    assert published_beside(tmp_path / "net.pth") is None
    with pytest.raises(LoadError, match=r"config.json is damaged .*copy or download"):
        published_in(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(LoadError, match=r"config.json holds a list; expected an object"):
        published_in(tmp_path)


def test_a_graph_that_normalises_its_own_input_comes_first() -> None:
    """What is published was made a part of such a graph; twice would be wrong."""
    beside = Published(
        "transformers:ResNetModel", (3, 32, 32), (0.5,), (0.25,), None, "config.json", folder=Path()
    )
    options = ModelOptions("net.onnx")
    chosen = choose_input(options, Origin(white=255.0, published=beside))
    assert chosen.spec == InputSpec((3, 32, 32), (0.0,), (1 / 255,))
    assert "normalises its own input" in chosen.notes[0]
    chosen = choose_input(options, Origin(published=beside))
    assert (chosen.spec.mean, chosen.source) == ((0.5, 0.5, 0.5), "metadata")
    assert chosen.notes == ("took mean 0.5, std 0.25 from config.json",)
