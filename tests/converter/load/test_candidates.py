"""Which of a checkpoint's states are taken for the network's, and in which order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from converter.errors import ArchitectureError, LoadError
from converter.load.candidates import candidates_of, variants
from tests.converter.load.test_model import CODE, assert_same_network, load, saved, trained

State = dict[str, Tensor]


def net(scale: float = 1.0, width: int = 4) -> State:
    """Three layers, so that it is told from one."""
    parts = {"conv.weight": (width, 3, 3, 3), "bn.weight": (width,), "fc.weight": (5, width)}
    return {name: torch.full(shape, scale) for name, shape in parts.items()}


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def firsts(state: State) -> list[set[str]]:
    return [set(candidate.state) for candidate in variants(state)]


NAMES = set(net())


@pytest.mark.parametrize(
    ("beside", "taken"),
    [
        ({"criterion.weight": torch.rand(5)}, True),
        ({"val_f1.tp": torch.rand(5), "train_loss.total": torch.rand(1)}, True),
        ({"train_precision.tp": torch.rand(5), "ce.weight": torch.rand(5)}, True),
        ({"seen.tp": torch.rand(5), "seen.fn": torch.rand(5)}, True),
        (behind("encoder_k.", net()) | {"queue": torch.rand(5, 9), "queue_ptr": torch.zeros(1)}, True),
        ({"loss_fn.vgg.0.weight": torch.rand(64, 3, 9, 9)}, True),
        ({"initted": torch.tensor(True), "class_weights": torch.rand(5)}, True),
        (behind("teacher.", net()), True),
        ({"decoder.weight": torch.rand(5, 5)}, False),
        ({"cls_token": torch.rand(1, 1, 4)}, False),
        ({"mean": torch.rand(1, 3, 1, 1)}, False),  # the network normalises its own input
        (behind("decoder.", net(width=8)), False),
    ],
)
def test_what_is_left_out(beside: State, taken: bool) -> None:
    """A group is the network only where nothing beside it may belong to the network."""
    assert (firsts(behind("model.", net()) | beside)[0] == NAMES) == taken


def test_plain_networks_are_taken_whole() -> None:
    assert firsts(net()) == [NAMES]
    same = {f"{layer}.weight": torch.ones(4, 4) for layer in ("fc1", "fc2", "fc3")}
    assert firsts(same)[0] == set(same)
    blocks = behind("layer1.0.", net()) | behind("layer2.0.", net()) | {"fc.weight": torch.ones(5, 4)}
    assert firsts(blocks)[0] == set(blocks)


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        ("model.", "ema_model.module.", 2),
        ("student.", "teacher.", 2),
        ("online_network.", "target_network.", 1),
        ("encoder_q.", "encoder_k.", 1),
    ],
)
def test_which_of_two_copies(one: str, other: str, first: float) -> None:
    states = [behind(one, net(1)), behind(other, net(2))]
    for state in (states[0] | states[1], states[1] | states[0]):
        chosen = variants(state)[0]
        assert (set(chosen.state), chosen.state["fc.weight"][0, 0]) == (NAMES, first)
        assert ("averaged weights" in chosen.notes[0]) == (first == 2)


@pytest.mark.parametrize(
    ("loaded", "scale"),
    [
        ({"state_dict": net(1), "state_dict_ema": net(2)}, 2),
        ({"meta": {"mmengine_version": "0.10"}, "state_dict": net(1), "ema_state_dict": net(2)}, 1),
        ({"state_dict": net(1), "current_model_state": net(2), "averaging_state": {"n": 3}}, 1),
        ([7, {"run": {"model": {"state_dict": net(1)}}}], 1),
        ({"small": {"a.weight": torch.ones(2)}, "large": net(1)}, 1),
        ({"model": net(1), "optimizer": {"state": {0: {"exp_avg": torch.rand(99)}}, "param_groups": []}}, 1),
    ],
)
def test_which_entry(loaded: object, scale: float) -> None:
    assert candidates_of(loaded, Path("net.pth"))[0].state["fc.weight"][0, 0] == scale


def test_an_average_without_statistics_gives_way(tmp_path: Path) -> None:
    """Some averages hold parameters alone; then the plain weights are whole."""
    (tmp_path / "nets.py").write_text(CODE)
    network = trained()
    parameters = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    path = saved({"ema": parameters, "model": network.state_dict()}, tmp_path / "net.pth")
    teacher = load(path, f"{tmp_path / 'nets.py'}:Tiny")
    assert_same_network(teacher, network)
    assert not any("averaged" in note for note in teacher.notes)


def test_arch_says_which_part_is_meant(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    network = trained()
    state = behind("encoder.", network.state_dict()) | {"decoder.weight": torch.rand(99, 99)}
    teacher = load(saved(state, tmp_path / "net.pth"), f"{tmp_path / 'nets.py'}:Tiny")
    assert_same_network(teacher, network)
    assert any("Tiny lacks, 1 of the tensors: decoder.weight" in note for note in teacher.notes)


def test_a_network_that_knows_few_of_the_tensors(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    state = {"fc.weight": torch.rand(5, 3), "fc.bias": torch.rand(5)}
    others = {f"layer{number}.weight": torch.rand(2) for number in range(3)}
    path = saved(state | others, tmp_path / "net.pth")
    with pytest.raises(
        ArchitectureError, match=r"don't fit .*Plain; tensors 3 unknown to the network: layer0"
    ):
        load(path, f"{tmp_path / 'nets.py'}:Plain")


@pytest.mark.parametrize("kind", [b"O8", b"f8", b"M8", b"V9"])
def test_arrays_that_are_not_what_they_say(kind: bytes, tmp_path: Path) -> None:
    """Objects would be pointers, and a larger type would read behind the bytes of the file."""
    (tmp_path / "nets.py").write_text(CODE)
    arrays = {name: value.numpy() for name, value in trained().state_dict().items()}
    arrays["fc.weight"] = np.asfortranarray(arrays["fc.weight"])
    path = tmp_path / "net.pth"
    torch.save(arrays, path, _use_new_zipfile_serialization=False)
    assert_same_network(load(path, f"{tmp_path / 'nets.py'}:Tiny"), trained())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"X\x02\x00\x00\x00f4", b"X\x02\x00\x00\x00" + kind))
    with pytest.raises(LoadError, match=r"tensors 7 missing from the file: conv\.weight"):
        load(path, f"{tmp_path / 'nets.py'}:Tiny")
