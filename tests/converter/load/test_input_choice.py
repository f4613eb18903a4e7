"""What says the input's normalisation, in which order, and what is said about it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calibrators.data.input_spec import PRESETS, InputSpec
from converter.errors import OptionsError
from converter.load.input_choice import InputChoice, choose_input
from converter.load.input_spec import Origin
from converter.load.model import load_model
from converter.load.normalisation import NormalisationEstimate
from converter.load.options import ModelOptions
from tests.converter.load.first_layers import stem
from tests.converter.load.test_nearest_preset import estimate

SHAPE = (3, 224, 224)
IMAGENET = estimate((-0.14, -0.10, -0.04), 1.19)
UNIT_BGR = estimate((0.39, 0.42, 0.45), 0.29)
BYTES = estimate((115.0, 114.0, 113.5), 70.0)
CAFFE = estimate((1.0, 2.0, 3.0), 65.0)


def weights(mean: list[float], std: list[float]) -> Any:
    transforms = SimpleNamespace(mean=mean, std=std, crop_size=[224])
    return SimpleNamespace(transforms=lambda: transforms)


TORCHVISION = weights(list(PRESETS["imagenet"].mean), list(PRESETS["imagenet"].std))


def chosen(
    found: NormalisationEstimate | None = None, origin: Origin | None = None, **given: Any
) -> InputChoice:
    options = ModelOptions("net.pth", **({"input_shape": SHAPE} | given))
    return choose_input(options, origin or Origin(), found)


def usual(name: str, order: Any = "rgb") -> InputSpec:
    return InputSpec(SHAPE, *PRESETS[name].for_channels(3, order), order)


@pytest.mark.parametrize(
    ("found", "spec", "words"),
    [
        (
            IMAGENET,
            usual("imagenet"),
            "took --preset imagenet: mean 0.485,0.456,0.406, std 0.229,0.224,0.225",
        ),
        (UNIT_BGR, usual("unit", "bgr"), "took --preset unit: mean 0, std 1, blue first"),
        (BYTES, usual("bytes"), "took --preset bytes: mean 0, std 0.00392157 "),
        (CAFFE, usual("caffe", "bgr"), "mean 0.407604,0.457957,0.48502, std 0.00392157, blue first"),
        (estimate((4.5, 4.5, 4.5), 2.6), InputSpec(SHAPE, (0.0,), (0.1,)), "took mean 0, std 0.1 "),
    ],
    ids=["imagenet", "unit", "bytes", "caffe", "own"],
)
def test_the_network_says_it_where_nothing_else_does(
    found: NormalisationEstimate, spec: InputSpec, words: str
) -> None:
    choice = chosen(found)
    assert (choice.spec, choice.source, choice.warnings) == (spec, "network", ())
    (note,) = choice.notes
    assert note.startswith("read the normalisation from the network: ")
    assert words in note
    assert "--preset, or --mean and --std" in note
    assert chosen(found, preset="auto", channel_order="auto") == choice


def test_typed_order_turns_the_values_of_rgb() -> None:
    assert chosen(CAFFE, channel_order="rgb").spec == usual("caffe", "rgb")
    assert chosen(IMAGENET, channel_order="bgr").spec == usual("imagenet", "bgr")
    assert chosen(preset="imagenet", channel_order="bgr").spec == usual("imagenet", "bgr")
    assumed = chosen(origin=Origin(TORCHVISION, assumed=True), channel_order="bgr")
    assert assumed.spec == usual("imagenet", "bgr")
    typed = chosen(mean=(0.1, 0.2, 0.3), std=(0.5,), channel_order="bgr")
    assert typed.spec == InputSpec(SHAPE, (0.1, 0.2, 0.3), (0.5,), "bgr")


def test_presets_have_their_order_and_print_their_values() -> None:
    choice = chosen(preset="caffe")
    assert (choice.spec, choice.source) == (usual("caffe", "bgr"), "preset")
    assert choice.notes == (
        "--preset caffe: mean 0.407604,0.457957,0.48502, std 0.00392157, blue first (for pixels in [0, 1])",
    )
    assert usual("caffe", "bgr").low == pytest.approx((-103.939, -116.779, -123.68))
    assert usual("bytes").high == pytest.approx((255.0, 255.0, 255.0))


def test_grey_inputs_take_the_average_of_the_colours() -> None:
    spec = chosen(preset="imagenet", input_shape=(1, 28, 28)).spec
    assert spec.mean == pytest.approx((0.449,))
    assert spec.std == pytest.approx((0.226,))
    assert chosen(preset="caffe", input_shape=(1, 28, 28), channel_order="rgb").spec.std == (1 / 255,)
    assert chosen(preset="caffe", input_shape=(1, 28, 28)).spec.channel_order == "rgb"


@pytest.mark.parametrize(
    ("found", "given", "flags", "advice"),
    [
        (UNIT_BGR, {"preset": "bytes"}, "--preset bytes", "--preset unit --channel-order bgr"),
        (IMAGENET, {"preset": "unit"}, "--preset unit", "--preset imagenet"),
        (BYTES, {"mean": (0.0,), "std": (1.0,)}, "--mean and --std", "--preset bytes"),
        (
            CAFFE,
            {"preset": "imagenet", "channel_order": "bgr"},
            "--preset imagenet with --channel-order bgr",
            "--preset caffe",
        ),
    ],
    ids=["bytes", "unit", "typed", "caffe"],
)
def test_what_was_typed_is_kept_but_warned_of(
    found: NormalisationEstimate, given: dict[str, Any], flags: str, advice: str
) -> None:
    choice = chosen(found, **given)
    assert choice.spec == chosen(**given).spec
    (warning,) = choice.warnings
    assert warning.code == "normalisation-contradicted"
    assert warning.text.startswith(f"with {flags} the network gets values of ")
    assert warning.text.endswith(f"; {advice} agrees with it")


def test_a_contradicted_order_is_warned_of_and_an_open_one_is_told() -> None:
    told = chosen(UNIT_BGR, preset="unit")
    assert (told.spec, told.warnings) == (usual("unit", "bgr"), ())
    assert "the network takes blue first" in told.notes[-1]
    other = chosen(UNIT_BGR, preset="unit", channel_order="rgb")
    assert other.spec == usual("unit")
    assert [warning.code for warning in other.warnings] == ["channel-order-contradicted"]
    assert other.warnings[0].text.endswith("--channel-order bgr agrees with it")
    # Means that were subtracted channel by channel leave nothing to tell the order by.
    assert chosen(estimate((0.2, 0.0, -0.2), 1.1), preset="imagenet", channel_order="bgr").warnings == ()


@pytest.mark.parametrize(
    "found", [None, estimate((0.0, 0.0, 0.0), 0.8), estimate((0.4,) * 3, 0.3, spread=1.0)]
)
def test_without_a_clear_estimate_nothing_is_said(found: NormalisationEstimate | None) -> None:
    assert chosen(found, preset="bytes").warnings == ()
    assert chosen(found, mean=(0.5,), std=(0.5,)) == InputChoice(InputSpec(SHAPE, (0.5,), (0.5,)), "typed")
    with pytest.raises(OptionsError, match="normalisation is unknown: type --mean and --std"):
        chosen(found)


def test_the_error_says_what_standardised_images_leave() -> None:
    with pytest.raises(
        OptionsError, match="values of mean 0 and deviation 1, as after the mean and std of its"
    ):
        chosen(estimate((0.01,), 1.0), input_shape=(1, 28, 28))


def test_the_network_decides_whether_what_is_usual_for_its_architecture_holds() -> None:
    assumed = Origin(TORCHVISION, assumed=True)
    fits = chosen(IMAGENET, assumed)
    assert (fits.spec, fits.source) == (usual("imagenet"), "assumed")
    assert fits.notes[0].startswith("assumed the input of torchvision's")
    other = chosen(BYTES, assumed)
    assert (other.spec, other.source, other.warnings) == (usual("bytes"), "network", ())
    unclear = chosen(estimate((0.0, 0.0, 0.0), 0.8), assumed)
    assert unclear.source == "assumed"
    released = chosen(BYTES, Origin(TORCHVISION))
    assert (released.spec, released.source) == (usual("imagenet"), "metadata")
    assert chosen(None, assumed, input_shape=(1, 28, 28)).spec.mean == pytest.approx((0.449,))


def test_a_graph_that_normalises_its_own_input_comes_first() -> None:
    own = chosen(BYTES, Origin(white=255.0))
    assert (own.spec, own.source) == (InputSpec(SHAPE, (0.0,), (1 / 255,)), "graph")


def test_a_file_is_loaded_by_what_its_network_says(tmp_path: Path) -> None:
    spec = InputSpec((3, 32, 32), (0.0,), (1 / 255,), "bgr")
    code = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1, bias=False),"
    (tmp_path / "net.py").write_text(f"{code} nn.BatchNorm2d(24), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n")
    torch.save(stem(spec).state_dict(), tmp_path / "net.pth")
    options = {"arch": f"{tmp_path / 'net.py'}:build", "input_shape": (3, 32, 32)}
    teacher = load_model(ModelOptions(str(tmp_path / "net.pth"), **options))
    assert (teacher.spec, teacher.normalisation_from) == (spec, "network")
    typed = load_model(ModelOptions(str(tmp_path / "net.pth"), preset="imagenet", **options))
    assert typed.normalisation_from == "preset"
    assert [warning.code for warning in typed.warnings] == ["normalisation-contradicted"]
