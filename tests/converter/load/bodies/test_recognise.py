"""Weights of torchvision, timm and tutorials recognised by their names and shapes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models

from converter.errors import ArchitectureError
from converter.load.bodies.fit import Fit, Stem
from converter.load.bodies.index import index
from converter.load.bodies.recognise import classes_of, recognise
from converter.load.bodies.tree import Shape


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, Shape]:
    """Names and shapes of what ``build`` builds without memory."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build().state_dict().items()}


def fit_to(build: Callable[[], nn.Module]) -> Fit:
    return recognise(shapes_of(build))


def torchvision(name: str, classes: int = 1000) -> dict[str, Shape]:
    return shapes_of(lambda: models.get_model(name, weights=None, num_classes=classes))


def timm(name: str, **kwargs: object) -> dict[str, Shape]:
    import timm

    return shapes_of(lambda: timm.create_model(name, **kwargs))


def two_layers(shapes: dict[str, Shape], place: str) -> dict[str, Shape]:
    """``shapes`` with Linear, ReLU, Dropout, Linear at ``place``, of 7 classes."""
    width = shapes[f"{place}.weight"][1:]
    body = {name: shape for name, shape in shapes.items() if not name.startswith(f"{place}.")}
    first = {f"{place}.0.weight": (64, *width), f"{place}.0.bias": (64,)}
    return body | first | {f"{place}.3.weight": (7, 64, *width[1:]), f"{place}.3.bias": (7,)}


SPREAD = [
    *(("resnet18", "fc"), ("vgg16_bn", "classifier.6"), ("densenet121", "classifier")),
    *(
        ("mobilenet_v2", "classifier.1"),
        ("efficientnet_b1", "classifier.1"),
        ("convnext_tiny", "classifier.2"),
    ),
    *(("timm:resnet26d", "fc"), ("timm:convnext_atto", "head.fc"), ("timm:regnety_002", "head.fc")),
    *(("timm:resnetv2_50", "head.fc"), ("timm:ghostnet_100", "classifier"), ("timm:repvgg_a0", "head.fc")),
]


@pytest.mark.parametrize(("name", "place"), SPREAD)
def test_the_body_is_told_with_any_head_and_stem(name: str, place: str) -> None:
    plain = timm(name.removeprefix("timm:")) if name.startswith("timm:") else torchvision(name)
    entry = index().named(name)
    assert entry is not None
    weight = f"{entry.stem[0]}.weight"

    def with_channels(channels: int) -> dict[str, Shape]:
        stems = [f"{path}.weight" for path in entry.stem]
        return {stem: (plain[stem][0], channels, *plain[stem][2:]) for stem in stems}

    assert plain[weight][1] == 3
    fewer = {key: (7, *shape[1:]) if key.startswith(f"{place}.") else shape for key, shape in plain.items()}
    fit = recognise(fewer | with_channels(4))
    assert (fit.architecture.name, fit.classes, fit.head, fit.stem) == (name, 7, None, Stem(4, small=False))
    deep = recognise(two_layers(plain, place) | with_channels(1))
    assert (deep.architecture.name, deep.classes, deep.place, deep.stem) == (
        name,
        7,
        place,
        Stem(1, small=False),
    )
    assert deep.head is not None
    assert len(deep.head.activated) == 1
    none = recognise({key: shape for key, shape in plain.items() if not key.startswith(f"{place}.")})
    assert (none.architecture.name, none.classes, none.stem) == (name, None, None)


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_dropped(name: str, auxiliary: bool) -> None:
    fit = fit_to(
        lambda: models.get_model(name, num_classes=7, aux_logits=auxiliary, init_weights=False)  # type: ignore[arg-type]
    )
    assert (fit.architecture.name, fit.classes) == (name, 7)
    assert not any("aux" in key.lower() for key in fit.names)


def test_order_prefix_and_names_of_old() -> None:
    vgg = torchvision("vgg11_bn", 3)
    assert recognise(dict(sorted(vgg.items(), reverse=True))).architecture.name == "vgg11_bn"
    inside = {f"net.backbone.{key}": value for key, value in torchvision("resnet18", 4).items()}
    fit = recognise(inside)
    assert (fit.architecture.name, fit.names["net.backbone.fc.bias"]) == ("resnet18", "fc.bias")
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for key, value in torchvision("densenet121").items()
    }
    assert recognise(old).architecture.name == "densenet121"


def resnet_with(**modules: nn.Module) -> Callable[[], nn.Module]:
    """torchvision's ResNet-18 with modules replaced or added."""

    def build() -> nn.Module:
        network = models.resnet18()
        for name, module in modules.items():
            setattr(network, name, module)
        return network

    return build


def without_fc(rename: Callable[[str], str], **beside: Shape) -> dict[str, Shape]:
    body = {k: v for k, v in torchvision("resnet18").items() if not k.startswith("fc.")}
    return {rename(key): value for key, value in body.items()} | beside


@pytest.mark.parametrize("head", ["head", "classifier", "last_linear", "classification_head.linear"])
def test_a_head_of_another_name_beside_the_body(head: str) -> None:
    """Also where the body is a module of its own."""
    for prefix in ("",) if head == "head" else ("encoder.",):
        beside = {f"{head}.weight": (9, 512), f"{head}.bias": (9,)}
        fit = recognise(without_fc(lambda key, prefix=prefix: prefix + key, **beside))  # type: ignore[misc]
        assert (fit.architecture.name, fit.classes, fit.names[f"{head}.bias"]) == ("resnet18", 9, "fc.bias")


def test_fastai_numbers_the_children_and_pools_twice() -> None:
    children = [name for name, _ in models.resnet18().named_children()]

    def numbered(key: str) -> str:
        first, _, rest = key.partition(".")
        return f"0.{children.index(first)}.{rest}"

    head = {"1.2.weight": (1024,), "1.2.bias": (1024,), "1.2.running_mean": (1024,)}
    head |= {"1.2.running_var": (1024,), "1.4.weight": (512, 1024), "1.6.weight": (512,), "1.6.bias": (512,)}
    head |= {"1.6.running_mean": (512,), "1.6.running_var": (512,), "1.8.weight": (37, 512)}
    fit = recognise(without_fc(numbered, **head))
    assert (fit.architecture.name, fit.classes, fit.pools_twice) == ("resnet18", 37, True)
    assert fit.names["0.4.0.conv1.weight"] == "layer1.0.conv1.weight"
    assert fit.names["1.8.weight"] == "fc.8.weight"


def test_the_stem_of_a_resnet_for_cifar() -> None:
    fit = fit_to(resnet_with(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False), maxpool=nn.Identity()))
    assert (fit.architecture.name, fit.stem) == ("resnet18", Stem(3, small=True))


def test_architectures_of_equal_shapes_are_named_together() -> None:
    """They differ in padding and epsilon."""
    with pytest.raises(ArchitectureError) as caught:
        recognise(timm("tf_efficientnet_b0", num_classes=7))
    assert "fit several architectures alike" in str(caught.value)
    assert "timm:efficientnet_b0" in str(caught.value)
    assert "timm:tf_efficientnet_b0" in str(caught.value)
    assert "say which: --arch timm:" in str(caught.value)


def test_of_equal_shapes_torchvisions_comes_first() -> None:
    fit = recognise(torchvision("resnet50"))
    assert fit.architecture.name == "resnet50"
    assert "timm:resnetblur50" in fit.others


def test_of_several_the_one_that_the_file_names() -> None:
    fit = recognise(timm("tf_efficientnet_b0"), frozenset({"timm/tf_efficientnet_b0.ns_jft_in1k", "adam"}))
    assert (fit.architecture.name, fit.is_named) == ("timm:tf_efficientnet_b0", True)
    blurred = recognise(torchvision("resnet50"), frozenset({"resnetblur50"}))
    assert (blurred.architecture.name, blurred.others) == ("timm:resnetblur50", ())
    assert recognise(torchvision("resnet50"), frozenset({"resnet50"})).others == ()
    both = recognise(torchvision("resnet50"), frozenset({"resnet50", "resnetblur50"}))
    assert (both.architecture.name, both.is_named) == ("resnet50", False)


def test_the_size_of_images_decides_first() -> None:
    fit = recognise(timm("vit_tiny_patch16_224", num_classes=5))
    assert ("timm:vit_tiny_patch16_224" in fit.architecture.same, fit.image_size) == (True, None)


def test_a_parameter_of_its_own_is_no_layer() -> None:
    with pytest.raises(ArchitectureError, match=r"can't be rebuilt: its layers are p, fc\.weight"):
        recognise(without_fc(lambda key: f"body.{key}", p=(1,)) | {"fc.weight": (4, 512)})


def test_pretraining_leaves_a_token_of_masked_patches() -> None:
    shapes = timm("vit_small_patch14_dinov2", num_classes=0) | {"mask_token": (1, 384)}
    assert recognise(shapes).architecture.name == "timm:vit_small_patch14_dinov2"


def test_what_fits_nothing_names_the_nearest_and_what_differs() -> None:
    shapes = torchvision("resnet34", 10)
    del shapes["layer3.5.conv2.weight"]
    with pytest.raises(ArchitectureError) as caught:
        recognise(shapes)
    message = str(caught.value)
    assert "nearest: torchvision's resnet34, of whose 182 tensors 179 agree" in message
    assert "1 missing from the file: layer3.5.conv2.weight" in message
    assert "2 of another shape: fc.weight, fc.bias" in message
    assert "--arch file.py:callable" in message


@pytest.mark.parametrize(
    "shapes",
    [
        {"w": (3,)},
        {"": (3,)},
        {"model.layers.0.self_attn.q_proj.weight": (64, 64), "model.embed_tokens.weight": (1000, 64)},
        {
            "base_model.model.layer.0.lora_A.weight": (8, 64),
            "base_model.model.layer.0.lora_B.weight": (64, 8),
        },
    ],
)
def test_other_weights_are_near_nothing(shapes: dict[str, Shape]) -> None:
    with pytest.raises(ArchitectureError, match=r"nearest: none\. Name the network"):
        recognise(shapes)


def test_weights_of_transformers_lack_their_config() -> None:
    names = {"resnet.embedder.embedder.convolution.weight": (64, 3, 7, 7), "classifier.1.weight": (2, 64)}
    with pytest.raises(ArchitectureError, match=r"of transformers: put the network's config\.json beside"):
        recognise(names)


def test_a_head_that_is_no_chain() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.zeros(1, 512))
            self.out = nn.Linear(512, 7)

    with pytest.raises(
        ArchitectureError, match=r"Its body fits, but the head can't be rebuilt: .* has query"
    ):
        fit_to(resnet_with(fc=Attention()))
    with pytest.raises(ArchitectureError, match=r"beside fc the file has decoder\.weight, decoder\.bias"):
        fit_to(resnet_with(decoder=nn.Conv2d(512, 9, 3)))
    with pytest.raises(ArchitectureError, match="it begins with Conv2d, where Linear is expected"):
        fit_to(resnet_with(fc=nn.Conv2d(512, 7, 1)))
    with pytest.raises(ArchitectureError, match="it takes 256 values and the body gives 512"):
        fit_to(resnet_with(fc=nn.Linear(256, 7)))


def test_no_classes() -> None:
    shapes = torchvision("resnet18") | {"fc.weight": (0, 512), "fc.bias": (0,)}
    with pytest.raises(
        ArchitectureError, match=r"the head of these weights, torchvision's resnet18, has 0 classes"
    ):
        recognise(shapes)


def test_classes_of_an_unknown_network() -> None:
    assert classes_of({"conv.weight": (8, 3, 3, 3), "fc.weight": (5, 8), "fc.bias": (5,)}) == 5
    assert classes_of({"classifier.10.weight": (4, 9), "classifier.9.weight": (9, 9)}) == 4
    assert classes_of({"blocks.0.linear.weight": (4, 9)}) is None
