"""The index of architectures against the libraries that it was made of."""

import re
from importlib.metadata import version

import pytest
from torchvision import models

from converter.load.bodies.index import TIMM, index
from converter.load.bodies.make_index import all_names, built_from_name
from converter.load.bodies.tree import Comparison

AGAIN = "write the index anew: python -m converter.load.bodies.make_index"
OF_TIMM = ("resnet18", "resnetv2_50", "regnety_002", "mobilenetv3_small_100", "test_vit", "test_convnext")


def test_it_has_every_name_of_the_installed_libraries() -> None:
    known = {name for entry in index().architectures for name in (entry.name, *entry.same)}
    installed = {name: version(name).partition("+")[0] for name in ("torchvision", "timm")}
    absent = [
        name
        for name in all_names()
        if name not in known
        # Another version of timm has other names, which is no fault of the index.
        and (not name.startswith(TIMM) or installed["timm"] == index().versions["timm"])
    ]
    assert absent == [], AGAIN


def families() -> list[str]:
    """The smallest classifier of each module of torchvision."""
    smallest: dict[str, str] = {}
    for name in sorted(
        models.list_models(module=models),
        key=lambda n: models.get_model_weights(n).DEFAULT.meta["num_params"],
    ):
        smallest.setdefault(models.get_model_builder(name).__module__, name)
    return list(smallest.values())


@pytest.mark.parametrize("name", [*families(), *(TIMM + name for name in OF_TIMM)])
def test_its_shapes_are_those_of_the_library(name: str) -> None:
    entry = index().named(name)
    assert entry is not None
    built = built_from_name(name)
    assert Comparison().distance(built.tree, entry.tree) == 0, AGAIN
    assert (built.head, built.stem) == (entry.head, entry.stem)


def test_its_shapes_have_torchvisions_counts_of_parameters() -> None:
    """For all names, without building any."""
    statistics = re.compile(r"running_mean|running_var|relative_position_index|relative_coords_table")

    def parameters(node: object, name: str = "") -> int:
        children = getattr(node, "children", None)
        if children is not None:
            return sum(parameters(child, key) for key, child in children.items())
        size = 1
        for length in node:  # type: ignore[attr-defined]
            size *= length
        return 0 if statistics.fullmatch(name) else size

    auxiliary = {
        "googlenet": 6624904,
        "inception_v3": 23834568,
    }  # torchvision's counts without these classifiers
    for name in set(models.list_models(module=models)) - {"vit_h_14"}:  # its weights are of larger images
        entry = index().named(name)
        assert entry is not None
        expected = auxiliary.get(name, models.get_model_weights(name).DEFAULT.meta["num_params"])
        assert parameters(entry.tree) == expected, (name, AGAIN)


def test_a_name_of_equal_networks_is_found() -> None:
    entry = index().named("timm:resnet18")
    assert entry is not None
    assert (entry.name, entry.head, entry.stem) == ("resnet18", ("fc",), ("conv1",))
    assert index().named("timm:absent") is None
