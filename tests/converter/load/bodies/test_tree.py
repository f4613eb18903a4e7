"""Trees of names and shapes, and how they differ."""

from converter.load.bodies.tree import Comparison, at, difference, names_of, tree_of

BODY = {"conv.weight": (8, 3, 3, 3), "layer.0.a.weight": (8,), "layer.1.a.weight": (8,), "fc.weight": (5, 8)}


def test_equal_modules_are_one_object() -> None:
    tree = tree_of(BODY | {"conv.num_batches_tracked": ()})
    assert tree.count == 4
    assert at(tree, "layer.0") is at(tree, "layer.1")
    assert at(tree, "fc.weight") == (5, 8)
    assert at(tree, "fc.weight.x") is None
    assert at(tree, "absent") is None
    assert list(names_of(tree)) == list(BODY)


def test_a_difference_names_each_tensor() -> None:
    ours = tree_of({**BODY, "fc.weight": (7, 8), "extra.bias": (1,), "layer": (3,)})
    theirs = tree_of({**BODY, "fc.bias": (5,)})
    found = difference(ours, theirs)
    assert found.missing == ("fc.bias",)
    assert set(found.unknown) == {"extra.bias", "layer."}  # a tensor called like a module
    assert found.reshaped == ("fc.weight",)
    assert Comparison().distance(ours, theirs) == len(found) == 4
    assert Comparison().distance(ours, ours) == 0


def test_a_tensor_in_the_place_of_a_module() -> None:
    ours, theirs = tree_of({"a": (2,), "b": (1,)}), tree_of({"a.weight": (2,), "a.bias": (2,), "b": (1,)})
    found = difference(ours, theirs)
    assert (found.missing, found.unknown) == (("a.weight", "a.bias"), ("a",))
    assert Comparison().distance(ours, theirs) == 3


def test_names_of_any_depth() -> None:
    name = ".".join("a" * 5000)
    assert list(names_of(tree_of({name: (1,)}))) == [name]
