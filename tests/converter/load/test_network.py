"""torchvision's architectures: recognised, named, downloaded, and told apart."""

from pathlib import Path

import pytest
import torch
from torchvision import models

from converter.errors import ArchitectureError, LoadError, OptionsError
from converter.load import architectures
from converter.load.model import load_model
from converter.load.options import ModelOptions

pytestmark = pytest.mark.slow


def state_of(name: str, classes: int, **kwargs) -> dict[str, torch.Tensor]:
    """Weights of torchvision's own builder, without memory behind them where that's enough."""
    return models.get_model(name, weights=None, num_classes=classes, **kwargs).state_dict()


def on_meta(name: str, classes: int, **kwargs) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return state_of(name, classes, **kwargs)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "vgg16", "vgg16_bn", "densenet121"),
        *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b1", "efficientnet_b2", "squeezenet1_0"),
        *("shufflenet_v2_x1_0", "mnasnet1_0", "convnext_tiny", "alexnet", "maxvit_t", "swin_t", "swin_v2_t"),
    ],
)
@pytest.mark.parametrize("classes", [10, 1000])
def test_recognised_whatever_the_classes(name: str, classes: int) -> None:
    match = architectures.recognise(on_meta(name, classes))
    assert (match.name, match.classes) == (name, classes)


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_dropped(name: str, auxiliary: bool) -> None:
    match = architectures.recognise(on_meta(name, 7, aux_logits=auxiliary, init_weights=False))
    assert match.name == name
    assert not any(key.lower().startswith("aux") for key in match.state)


def test_regnet_is_recognised() -> None:
    assert architectures.recognise(state_of("regnet_x_400mf", 3)).name == "regnet_x_400mf"


def test_order_of_the_names_does_not_matter() -> None:
    state = on_meta("vgg11_bn", 3)
    assert architectures.recognise(dict(sorted(state.items(), reverse=True))).name == "vgg11_bn"


def test_common_prefix_and_old_densenet_names() -> None:
    state = {f"backbone.{key}": value for key, value in on_meta("resnet18", 4).items()}
    assert architectures.recognise(state).name == "resnet18"
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for key, value in on_meta("densenet121", 1000).items()
    }
    assert architectures.recognise(old).name == "densenet121"


def test_unknown_weights_name_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at all architectures, of which some take a second each."""
    state = on_meta("resnet34", 10)
    del state["layer3.5.conv2.weight"]
    shapes, looked_at = architectures._shapes, set()
    monkeypatch.setattr(
        architectures, "_shapes", lambda name, classes: looked_at.add(name) or shapes(name, classes)
    )
    with pytest.raises(ArchitectureError, match=r"nearest: resnet34 \(99 % of the names agree, 9\d % with"):
        architectures.recognise(state)
    print(len(looked_at), len(architectures.names()))
    assert len(looked_at) < len(architectures.names()) / 2
    with pytest.raises(ArchitectureError, match=r"these 1 tensors \(w\); nearest: none. Name the network"):
        architectures.recognise({"w": torch.zeros(3)})


def test_weights_that_fit_several(monkeypatch: pytest.MonkeyPatch) -> None:
    state = on_meta("resnet18", 10)
    monkeypatch.setattr(architectures, "_of_same_size", lambda *_: ["resnet18", "twin"])
    monkeypatch.setattr(architectures, "_shapes", lambda *_: architectures._comparable(state))
    with pytest.raises(
        ArchitectureError, match=r"several .*alike: resnet18, twin; say which: --arch resnet18"
    ):
        architectures.recognise(state)


def test_our_build_matches_theirs_and_notes_the_assumption(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = models.mnasnet0_5(num_classes=6).eval()  # the one that looks at versions
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth"), input_shape=(3, 64, 64)))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), theirs(x), rtol=0, atol=0)
    assert teacher.spec.mean == (0.485, 0.456, 0.406)
    assert teacher.class_names is None
    assert teacher.bn_layers == 52
    assert "recognised torchvision's mnasnet0_5 with 6 classes" in teacher.notes
    (assumed,) = (note for note in teacher.notes if "assumed the input of torchvision's MNASNet0_5_W" in note)
    assert assumed.endswith(
        ".IMAGENET1K_V1: mean 0.485,0.456,0.406, std 0.229,0.224,0.225; if training differed, say so with --mean and "
        "--std"
    )


def test_named_architecture_takes_the_crop_of_its_weights(tmp_path: Path) -> None:
    torch.save(state_of("squeezenet1_1", 4), tmp_path / "net.pth")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth"), arch="squeezenet1_1"))
    assert (teacher.spec.shape, teacher.probe["logits"].shape[1]) == ((3, 224, 224), 4)
    assert any(": 3x224x224, mean 0.485" in note and "--input-shape" in note for note in teacher.notes)
    with pytest.raises(ArchitectureError, match=r"don't fit resnet18; tensors \d+ missing from the file"):
        load_model(ModelOptions(str(tmp_path / "net.pth"), arch="resnet18"))


def test_released_weights_are_known_by_their_digest() -> None:
    assert architectures.released_weights("resnet18", "f37072fd" + "0" * 56) is not None
    assert architectures.released_weights("resnet18", "0" * 64) is None


def test_torchvision_name_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.MobileNet_V3_Small_Weights.DEFAULT
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    theirs = models.mobilenet_v3_small().eval()
    torch.save(theirs.state_dict(), folder / weights.url.rpartition("/")[2])
    teacher = load_model(ModelOptions("mobilenet_v3_small"))
    assert (teacher.name, teacher.probe["logits"].shape[1]) == ("mobilenet_v3_small", 1000)
    assert teacher.spec.shape == (3, 224, 224)
    assert teacher.class_names is not None
    assert teacher.class_names[0] == "tench"
    assert teacher.notes == ()
    assert len(teacher.sha256) == 64
    with pytest.raises(OptionsError, match="brings its architecture; leave --arch resnet18 out"):
        load_model(ModelOptions("mobilenet_v3_small", arch="resnet18"))


def test_torchvision_name_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(
        LoadError, match=r"resnet18 can't be downloaded \(Name or service.*fetch https://.*put it"
    ):
        load_model(ModelOptions("resnet18"))
