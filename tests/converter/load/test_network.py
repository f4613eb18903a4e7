"""Networks of torchvision, timm and tutorials: recognised, named, downloaded, with the outputs that theirs have."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from converter.errors import ArchitectureError, LoadError, OptionsError
from converter.load.bodies import timm_names, torchvision_names
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions

pytestmark = pytest.mark.slow


def state_of(name: str, classes: int, **kwargs) -> dict[str, torch.Tensor]:
    """Weights of torchvision's own builder."""
    return models.get_model(name, weights=None, num_classes=classes, **kwargs).state_dict()


def randomised(network: nn.Module) -> nn.Module:
    """``network`` in eval mode with weights and statistics that leave no branch of it without effect."""
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            bound = (6 / value[0].numel()) ** 0.5
            value.copy_((2 * torch.rand(value.shape, generator=generator) - 1) * bound)
    return network.eval()


def require_same(theirs: nn.Module, folder: Path, shape: tuple[int, int, int], **options: Any) -> Teacher:
    """The teacher for the state_dict of ``theirs``, whose outputs are those of ``theirs``."""
    randomised(theirs)
    torch.save(theirs.state_dict(), folder / "net.pth")
    normalisation = {"mean": (0.5,) * shape[0], "std": (0.25,) * shape[0]}
    teacher = load_model(ModelOptions(str(folder / "net.pth"), input_shape=shape, **normalisation, **options))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), theirs(x), rtol=0, atol=0)
    return teacher


def set_all(network: nn.Module, **modules: nn.Module) -> nn.Module:
    for name, module in modules.items():
        network.set_submodule(name.replace("__", "."), module)
    return network


def of_timm(name: str, **kwargs: Any) -> nn.Module:
    import timm

    return timm.create_model(name, **kwargs)


def two_layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 7), nn.LogSoftmax(1))


class MaxAndMean(nn.Module):
    """fastai's AdaptiveConcatPool2d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [nn.functional.adaptive_max_pool2d(x, 1), nn.functional.adaptive_avg_pool2d(x, 1)], 1
        )


def of_fastai() -> nn.Module:
    """A ResNet-18 as fastai cuts and ends it."""
    head = nn.Sequential(
        *(
            MaxAndMean(),
            nn.Flatten(),
            nn.BatchNorm1d(1024),
            nn.Dropout(0.25),
            nn.Linear(1024, 32, bias=False),
        ),
        *(nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 37, bias=False)),
    )
    return nn.Sequential(nn.Sequential(*list(models.resnet18().children())[:-2]), head)


class Wrapped(nn.Module):
    """A body without its head inside of a network of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(models.resnet18().children())[:-1])
        self.classifier = two_layers(512)[:4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(x).flatten(1))


def for_cifar() -> nn.Module:
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return set_all(models.resnet18(num_classes=10), conv1=stem, maxpool=nn.Identity())


def of_flowers() -> nn.Module:
    """As a well-known course has it."""
    layers = {
        "fc1": nn.Linear(1280, 16),
        "relu": nn.ReLU(),
        "fc2": nn.Linear(16, 7),
        "output": nn.LogSoftmax(1),
    }
    return set_all(models.mobilenet_v2(), classifier=nn.Sequential(OrderedDict(layers))[:3])


def vgg() -> nn.Module:
    head = nn.Sequential(nn.Linear(25088, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5))
    return set_all(models.vgg11_bn(), classifier=head)


ReLU = "ReLU is assumed, as weights don't tell activations; for another, name a function"


@pytest.mark.parametrize(
    ("build", "shape", "note"),
    [
        (lambda: set_all(models.resnet18(), fc=two_layers(512)[:4]), (3, 64, 64), ReLU),
        (
            lambda: set_all(models.squeezenet1_1(num_classes=4)),
            (3, 64, 64),
            "recognised torchvision's squeezenet1_1",
        ),
        (of_fastai, (3, 64, 64), "the maximum and the mean of each channel, BatchNorm, Linear 1024→32, ReLU"),
        (Wrapped, (3, 64, 64), "recognised torchvision's resnet18 with 7 classes"),
        (for_cifar, (3, 32, 32), "3x3, as for CIFAR: stride 1 without a max pool behind it is assumed"),
        (of_flowers, (3, 64, 64), "its head by the shapes: Linear 1280→16, ReLU, Linear 16→7"),
        (vgg, (3, 64, 64), "with 5 classes"),
        (
            lambda: of_timm("test_resnet", num_classes=6, in_chans=1),
            (1, 64, 64),
            "timm's test_resnet with 6 classes",
        ),
        (lambda: set_all(of_timm("test_resnet"), fc=two_layers(96)[:4]), (3, 64, 64), ReLU),
        (lambda: of_timm("test_efficientnet", num_classes=0), (3, 64, 64), "the file has no head"),
    ],
)
def test_what_tutorials_make_computes_the_same(
    build: Callable[[], nn.Module], shape: tuple[int, int, int], note: str, tmp_path: Path
) -> None:
    teacher = require_same(build(), tmp_path, shape)
    assert any(note in line for line in (*teacher.notes, *map(str, teacher.warnings)))
    assumes = build is for_cifar or any("ReLU" in line for line in teacher.notes)
    assert {warning.code for warning in teacher.warnings} <= {"network-assumed", "normalisation-contradicted"}
    assert ("network-assumed" in {warning.code for warning in teacher.warnings}) == assumes


def test_a_transformer_for_other_images(tmp_path: Path) -> None:
    theirs = models.vit_b_32(image_size=96, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth")))
    assert teacher.spec.shape == (3, 96, 96)
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), theirs(x), rtol=0, atol=0)


def test_without_a_head_torchvision_gives_features(tmp_path: Path) -> None:
    teacher = require_same(set_all(models.resnet18(), fc=nn.Identity()), tmp_path, (3, 64, 64))
    assert teacher.probe[next(iter(teacher.probe))].shape == (4, 512)


def test_a_grey_stem_has_a_shape_and_no_normalisation(tmp_path: Path) -> None:
    theirs = set_all(models.resnet18(num_classes=3), conv1=nn.Conv2d(1, 64, 7, 2, 3, bias=False))
    torch.save(randomised(theirs).state_dict(), tmp_path / "net.pth")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth"), mean=(0.5,), std=(0.5,)))
    assert teacher.spec.shape == (1, 224, 224)
    with pytest.raises(OptionsError, match="normalisation is unknown"):
        load_model(ModelOptions(str(tmp_path / "net.pth")))


@pytest.mark.parametrize("arch", ["timm:test_resnet", "timm:test_resnet(num_classes=5)"])
def test_timms_input_is_assumed(arch: str, tmp_path: Path) -> None:
    torch.save(of_timm("test_resnet", num_classes=5).state_dict(), tmp_path / "net.pth")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth"), arch=arch))
    assert teacher.spec.shape == (3, 160, 160)
    assert teacher.spec.mean == (0.5, 0.5, 0.5)
    assert any("assumed the input of timm's test_resnet: 3x160x160" in note for note in teacher.notes)


def test_a_named_architecture_takes_another_head(tmp_path: Path) -> None:
    """Also the one of several that the weights fit."""
    require_same(
        of_timm("test_efficientnet_ln", num_classes=3),
        tmp_path,
        (3, 64, 64),
        arch="timm:test_efficientnet_ln",
    )
    theirs = set_all(models.resnet18(), fc=two_layers(512)[:4])
    require_same(theirs, tmp_path, (3, 64, 64), arch="resnet18")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm:resnet26q", r"timm \S+ has no model resnet26q \(did you mean timm:resnet26"),
        ("timm:test_resnet(depth=3)", r"timm \S+ failed to build test_resnet: TypeError: .*depth"),
        ("timm:test_resnet(3)", r"expected --arch 'timm:test_resnet\(name=value, ...\)' with numbers"),
        ("timm:test_vit", r"the weights don't fit timm:test_vit; tensors \d+ missing from the file"),
    ],
)
def test_a_wrong_name_of_timm(arch: str, message: str, tmp_path: Path) -> None:
    torch.save(of_timm("test_resnet", num_classes=5).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ArchitectureError, match=message):
        load_model(ModelOptions(str(tmp_path / "net.pth"), arch=arch))


def test_without_timm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(of_timm("test_resnet", num_classes=5).state_dict(), tmp_path / "net.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    message = (
        r"the network is timm's test_resnet; building it requires timm: pip install 'zscgan-convert\[timm\]'"
    )
    with pytest.raises(ArchitectureError, match=message):
        load_model(ModelOptions(str(tmp_path / "net.pth")))
    torch.save(state_of("resnet18", 4), tmp_path / "net.pth")
    assert load_model(ModelOptions(str(tmp_path / "net.pth"), input_shape=(3, 64, 64))).parameters > 0


def test_timms_name_as_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm_names, "require_hub", lambda repository: None)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))
    teacher = load_model(ModelOptions("timm:test_resnet"))
    assert (teacher.name, teacher.spec.shape) == ("test_resnet", (3, 160, 160))
    with pytest.raises(OptionsError, match="is a timm name and brings its architecture"):
        load_model(ModelOptions("timm:test_resnet", arch="resnet18"))
    with pytest.raises(LoadError, match="has no model resnet1x"):
        load_model(ModelOptions("timm:resnet1x"))
    with pytest.raises(LoadError, match=r"timm has no pretrained weights for resnetblur18; give a file"):
        load_model(ModelOptions("timm:resnetblur18"))
    with pytest.raises(LoadError, match="for timm's type timm:test_resnet"):
        load_model(ModelOptions("test_resnet"))


def test_timms_name_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request is enough, where timm's own loader would repeat its own."""
    import timm

    def offline(repository: str) -> None:
        raise OSError(f"{repository}: Name or service not known")

    monkeypatch.setattr(timm_names, "require_hub", offline)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("the network was tried again"))
    message = r"weights of timm:test_resnet can't be loaded \(timm/test_resnet.r160_in1k: Name or service not known\)"
    with pytest.raises(LoadError, match=message):
        load_model(ModelOptions("timm:test_resnet"))


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
    assert torchvision_names.released_weights("resnet18", "f37072fd" + "0" * 56) is not None
    assert torchvision_names.released_weights("resnet18", "0" * 64) is None


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
