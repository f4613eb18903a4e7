"""Networks that timm and transformers build from their ``config.json``, against the libraries' own; and refusals."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from calibrators.data.input_spec import InputSpec
from converter.errors import ArchitectureError, LoadError
from converter.graph.capture import onnx_from_model
from converter.load.model import load_model
from converter.load.options import ModelOptions
from tests.converter.load.test_checkpoint_forms import (
    TRANSFORMERS,
    assert_same,
    timm_folder,
    transformers_folder,
    weights,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def load(path: Path, **options: Any):
    return load_model(ModelOptions(str(path), **options))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_classifiers_of_transformers(kind: str, tmp_path: Path) -> None:
    path, network = transformers_folder(tmp_path, kind)
    teacher = load(path)
    assert_same(teacher, network)
    assert teacher.spec == InputSpec((3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert teacher.class_names == ("ant", "bee", "cow")
    assert {name: tuple(output.shape) for name, output in teacher.probe.items()} == {"logits": (4, 3)}
    assert teacher.bn_layers == sum("running_mean" in name for name in weights(network))


def test_a_network_of_transformers_becomes_onnx(tmp_path: Path) -> None:
    """Attention and a class token: what the exporter has most trouble with."""
    teacher = load(transformers_folder(tmp_path, "ViT")[0])
    assert {output.name for output in onnx_from_model(teacher.module, teacher.spec).graph.output} == {
        "logits"
    }


def test_flags_and_presets_come_before_what_is_published(tmp_path: Path) -> None:
    path, _ = transformers_folder(tmp_path)
    spec = load(path, mean=(0.1,), std=(0.5,), input_shape=(3, 64, 64)).spec
    assert spec == InputSpec((3, 64, 64), (0.1,), (0.5,))
    assert load(path, preset="cifar10").spec == InputSpec(
        (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    )


def test_channels_turned_round(tmp_path: Path) -> None:
    """A network that takes blue first gets such images."""
    path, network = transformers_folder(tmp_path)
    processor = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(processor | {"do_flip_channel_order": True}))
    x = torch.rand(2, 3, 32, 32)
    teacher = load(path)
    assert teacher.spec.channel_order == "bgr"
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), network(x), rtol=1e-5, atol=1e-6)


def test_the_digest_is_of_all_files(tmp_path: Path) -> None:
    path, _ = transformers_folder(tmp_path)
    before = load(path).sha256
    assert load(path).sha256 == before
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert load(path).sha256 != before


def test_weights_that_lack_something(tmp_path: Path) -> None:
    path, network = transformers_folder(tmp_path)
    state = weights(network.network)
    del state["classifier.1.bias"]
    (path / "model.safetensors").unlink()
    torch.save(state | {"extra": torch.rand(2)}, path / "pytorch_model.bin")
    with pytest.raises(ArchitectureError, match=r"don't fit .*1 missing from the weights: classifier.1.bias"):
        load(path)
    torch.save(weights(network.network) | {"extra": torch.rand(2)}, path / "pytorch_model.bin")
    teacher = load(path)
    assert_same(teacher, network)
    assert any(
        "skipped what ResNetForImageClassification lacks, 1 of the tensors: extra" in n for n in teacher.notes
    )


@pytest.mark.parametrize(("library", "make"), [("timm", timm_folder), ("transformers", transformers_folder)])
def test_without_the_library(
    library: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LoadError, match=rf"pip install .zscgan-convert\[{library}\]"):
        load(path)


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the name, nor by the arguments of timm's builder."""
    path, network = timm_folder(tmp_path)
    config = json.loads((path / "config.json").read_text())
    arguments = {
        "pretrained": True,
        "checkpoint_path": str(tmp_path / "evil.pth"),
        "pretrained_cfg": {"url": "x"},
    }
    (path / "config.json").write_text(json.dumps(config | {"model_args": arguments}))
    assert_same(load(path), network)
    for name in ("hf-hub:someone/network", "../network", "resnet18 "):
        (path / "config.json").write_text(json.dumps(config | {"architecture": name}))
        with pytest.raises(
            ArchitectureError, match=r"expected the name of a network of timm in config\.json"
        ):
            load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "test_vit"}, r"may be of another network: the weights don't fit timm:test_vit"),
        ({"architecture": "resnet_18"}, r"timm .* has no model resnet_18"),
        ({"model_args": {"wings": 2}}, r"timm .* failed to build test_resnet: .*wings"),
    ],
)
def test_a_config_that_does_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, _ = timm_folder(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ArchitectureError, match=message):
        load(path)


@pytest.mark.parametrize("change", [{"hidden_sizes": "many"}, {"depths": [1]}, {"layer_type": 7}])
def test_a_config_that_transformers_refuses(change: dict[str, Any], tmp_path: Path) -> None:
    path, _ = transformers_folder(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(LoadError, match=r"(can't build|don't fit the) ResNetForImageClassification"):
        load(path)


def test_a_class_that_is_no_network(tmp_path: Path) -> None:
    path, _ = transformers_folder(tmp_path)
    for name in ("pipeline", "ResNetConfig", "NoSuchNet"):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
        with pytest.raises(LoadError, match=rf"{name}"):
            load(path)
