"""Checkpoints of every form around one tiny network, against PyTorch's own loading; and what is refused."""

import argparse
import json
import re
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.errors import ArchitectureError, LoadError, OptionsError
from converter.load.model import PROBES, Teacher, load_model, require_batch_norm
from converter.load.options import ModelOptions

CODE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, channels=3, classes=5):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x, scale=1.0):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3))) * scale

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))

class Pair(Tiny):
    def forward(self, x):
        return super().forward(x), x

class Map(Tiny):
    def forward(self, x):
        return super().forward(x)[:, :, None]

class Two(Tiny):
    def forward(self, x, y, scale=1.0):
        return super().forward(x) + super().forward(y)

def needs(argument):
    return Tiny(argument)

def broken():
    raise RuntimeError("no such luck")

def number():
    return 7

constant = 3
"""


class Tiny(nn.Module):
    """The network of CODE, so that expectations don't come from the code under test."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def trained() -> Tiny:
    torch.manual_seed(0)
    network = Tiny()
    network(torch.randn(16, 3, 8, 8) * 2 + 1)
    return network.eval()


@pytest.fixture
def network() -> Tiny:
    return trained()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(CODE)
    return tmp_path / "nets.py"


def load(path: Path | str, arch: str | None = None, **options) -> Teacher:
    options = {"input_shape": (3, 8, 8), "preset": "unit"} | options
    return load_model(ModelOptions(str(path), arch=arch, **options))


def assert_same_network(teacher: Teacher, network: nn.Module) -> None:
    x = torch.randn(3, *teacher.spec.shape)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher.module(x), network(x), rtol=1e-6, atol=1e-6
        )  # the same float32 sums


def saved(obj: object, path: Path) -> Path:
    torch.save(obj, path)
    return path


FORMS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "best": 91.2},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "net": lambda s: {"net": s},
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1)},
    "ema": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": averaged(s)},
}


def averaged(state):
    return {"n_averaged": torch.tensor(7)} | {f"module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_state_dict(form: str, network: Tiny, code: Path) -> None:
    path = saved(FORMS[form](network.state_dict()), code.parent / "net.pth")
    teacher = load(path, f"{code}:Tiny")
    assert_same_network(teacher, network)
    assert (teacher.name, teacher.bn_layers) == ("net", 1)
    assert {name: output.shape for name, output in teacher.probe.items()} == {"logits": (PROBES, 5)}
    assert teacher.parameters == 3 * 4 * 9 + 8 + 25
    assert teacher.class_names is None
    assert not teacher.module.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in teacher.module.parameters())
    assert any("averaged (EMA) weights, entry 'model_ema'" in note for note in teacher.notes) == (
        form == "ema"
    )


def test_half_precision_becomes_float32(network: Tiny, code: Path) -> None:
    path = saved(network.half().state_dict(), code.parent / "net.pth")
    assert_same_network(load(path, f"{code}:Tiny"), network.float())


def test_old_format_and_digest(network: Tiny, code: Path) -> None:
    import hashlib

    path = code.parent / "net.th"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    teacher = load(path, f"{code}:Tiny")
    assert_same_network(teacher, network)
    assert teacher.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def write_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in state.items():
        data = tensor.numpy().tobytes()
        dtype = "I64" if tensor.dtype == torch.int64 else "F32"
        span = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_safetensors(network: Tiny, code: Path) -> None:
    path = write_safetensors(network.state_dict(), code.parent / "net.safetensors")
    assert_same_network(load(path, f"{code}:Tiny"), network)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LoadError, match="truncated or damaged safetensors"):
        load(path, f"{code}:Tiny")


def test_safetensors_of_other_types(network: Tiny, code: Path) -> None:
    from safetensors.torch import save_file

    narrow = {"conv.weight": torch.float8_e4m3fn, "fc.weight": torch.bfloat16, "fc.bias": torch.float16}
    state = {name: value.to(narrow.get(name, value.dtype)) for name, value in network.state_dict().items()}
    save_file(state, code.parent / "net.safetensors")
    teacher = load(code.parent / "net.safetensors", f"{code}:Tiny")
    for name, value in teacher.module.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype))


def test_safetensors_of_an_unknown_type(network: Tiny, code: Path) -> None:
    path = write_safetensors(network.state_dict(), code.parent / "net.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F99"'))
    with pytest.raises(LoadError, match=r"or of a type that PyTorch .* lacks .*F99"):
        load(path, f"{code}:Tiny")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(4, 3, 3, 3, dtype=torch.complex64), "conv.weight is complex64; expected dense tensors"),
        (torch.ones(4, 3, 3, 3).to_sparse(), "conv.weight is sparse_coo"),
        (torch.empty(4, 3, 3, 3, device="meta"), "conv.weight is a tensor without data"),
        (torch.empty(4, 3, 3, 3, dtype=torch.bits8), "conv.weight is bits8"),
    ],
)
def test_tensors_that_are_no_real_numbers(value: Tensor, message: str, network: Tiny, code: Path) -> None:
    path = saved(network.state_dict() | {"conv.weight": value}, code.parent / "net.pth")
    with pytest.raises(LoadError, match=message):
        load(path, f"{code}:Tiny")


def test_importable_module_from_the_current_folder(
    network: Tiny, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code.rename(code.parent / "tiny_nets_of_this_test.py")
    path = saved(network.state_dict(), code.parent / "net.pth")
    monkeypatch.chdir(code.parent)
    before = list(sys.path)
    assert_same_network(load("net.pth", "tiny_nets_of_this_test:Tiny"), network)
    assert_same_network(load(path, "tiny_nets_of_this_test.py:Tiny"), network)
    assert sys.path == before


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("{code}:Tinny", "there is no Tinny in it; it has Tiny"),
        ("{code}:constant", "constant is a int; expected a class or function"),
        ("{code}:number", "returned a int; expected a torch.nn.Module"),
        ("{code}:broken", r"calling it failed at .*nets.py:\d+: RuntimeError: no such luck"),
        (
            "{code}:needs",
            r"TypeError: needs.. missing 1 .*\(it is called without arguments\); to pass others",
        ),
        ("gone.py:Tiny", "there is no file gone.py"),
        ("no_such_package_here:Tiny", "ModuleNotFoundError: No module named 'no_such_package_here'"),
        ("{folder}/bad.py:Tiny", r"importing it failed at .*bad.py:2: SyntaxError"),
        ("{folder}/raises.py:Tiny", r"importing it failed at .*raises.py:1: ZeroDivisionError"),
        ("resnet81", r"torchvision has no classifier resnet81 \(did you mean resnet\d+.*expected --arch"),
        (":Tiny", "expected --arch torchvision_name | package.module:callable | file.py:callable"),
    ],
)
def test_arch_refusals(arch: str, message: str, network: Tiny, code: Path) -> None:
    (code.parent / "bad.py").write_text("x = 1\ny = = 2\n")
    (code.parent / "raises.py").write_text("1 / 0\n")
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(ArchitectureError, match=message):
        load(path, arch.format(code=code, folder=code.parent))


@pytest.mark.parametrize(("file", "climb"), [("net.py", ""), ("sub/net.py", ".")])
def test_relative_import_names_the_package(
    file: str, climb: str, network: Tiny, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the message suggests works, from the folder that it names."""
    package = code.parent / f"package_{len(climb)}_of_this_test"
    (package / file).parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text(CODE)
    (package / file).write_text(f"from .{climb}blocks import Tiny\n")
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(
        ArchitectureError, match=r"imports from its own package: type --arch \S+ in "
    ) as refusal:
        load(path, f"{package / file}:Tiny")
    arch, folder = str(refusal.value).partition("type --arch ")[2].split(" in ")
    monkeypatch.chdir(folder)
    assert_same_network(load(path, arch), network)
    with pytest.raises(ArchitectureError, match=rf"type --arch {arch}$"):
        load(path, f"{(package / file).relative_to(folder)}:Tiny")


def test_only_relative_imports_of_the_file_itself(network: Tiny, code: Path) -> None:
    (code.parent / "relative_of_this_test.py").write_text("from .nowhere import x")
    code.write_text("import relative_of_this_test")
    with pytest.raises(ArchitectureError, match=r"attempted relative import with no known parent package$"):
        load(saved(network.state_dict(), code.parent / "net.pth"), f"{code}:Tiny")


@pytest.mark.parametrize(
    ("file", "name"),
    [("x.pth.tar", "x"), ("x.ckpt", "x"), ("x.v1.5.pt", "x.v1.5"), ("x.best.tar", "x.best"), ("x", "x")],
)
def test_name_is_the_file_without_its_extension(file: str, name: str, network: Tiny, code: Path) -> None:
    assert load(saved(network.state_dict(), code.parent / file), f"{code}:Tiny").name == name


@pytest.mark.parametrize(("count", "ending"), [(8, "'7')"), (9, "'7', …)")])
def test_lists_that_are_cut_say_so(count: int, ending: str, code: Path) -> None:
    with pytest.raises(LoadError, match=re.escape(f"(keys: '0', '1', '2', '3', '4', '5', '6', {ending}")):
        load(saved({str(number): 1.0 for number in range(count)}, code.parent / "net.pth"))
    code.write_text("\n".join(f"def f{number}(): ..." for number in range(count - 3)))
    end = "f4" if count == 8 else "f4, …"
    with pytest.raises(ArchitectureError, match=rf"there is no Tiny in it; it has f0, f1, f2, f3, {end}$"):
        load(saved({"a": torch.zeros(1)}, code.parent / "net.pth"), f"{code}:Tiny")


def test_mismatches_are_told_apart_in_one_message(network: Tiny, code: Path) -> None:
    state = network.state_dict()
    state["fc.weight"] = torch.zeros(6, 4)
    state["extra.weight"] = state.pop("conv.weight")
    del state["bn.bias"], state["bn.num_batches_tracked"]
    path = saved(state, code.parent / "net.pth")
    with pytest.raises(ArchitectureError) as caught:
        load(path, f"{code}:Tiny")
    text = str(caught.value)
    assert "2 missing from the file: conv.weight, bn.bias" in text
    assert "1 unknown to the network: extra.weight" in text
    assert "1 of another shape: fc.weight: 6x4 in the file, 5x4 in the network" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float, network: Tiny, code: Path) -> None:
    network.conv.weight.data[0, 0, 0, 0] = bad
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(LoadError, match=r"conv.weight holds 1 NaN or infinite values"):
        load(path, f"{code}:Tiny")


def test_negative_variance(network: Tiny, code: Path) -> None:
    network.bn.running_var[1] = -0.5
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(LoadError, match=r"bn.running_var holds a negative variance \(-0.5\)"):
        load(path, f"{code}:Tiny")


def test_network_without_batch_norm(code: Path) -> None:
    path = saved({"fc.weight": torch.ones(5, 3), "fc.bias": torch.ones(5)}, code.parent / "net.pth")
    teacher = load(path, f"{code}:Plain")
    assert teacher.bn_layers == 0
    with pytest.raises(LoadError, match=r"net has no batch norm .* --calib-data DIR"):
        require_batch_norm(teacher)


def test_batch_norm_is_enough(network: Tiny, code: Path) -> None:
    require_batch_norm(load(saved(network.state_dict(), code.parent / "net.pth"), f"{code}:Tiny"))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("Pair", {"output_0": (4, 5), "output_1": (4, 3, 8, 8)}), ("Map", {"output": (4, 5, 1)})],
)
def test_outputs_of_any_form(
    name: str, outputs: dict[str, tuple[int, ...]], network: Tiny, code: Path
) -> None:
    path = saved(network.state_dict(), code.parent / "net.pth")
    assert {key: tuple(value.shape) for key, value in load(path, f"{code}:{name}").probe.items()} == outputs


def test_a_network_of_two_inputs(network: Tiny, code: Path) -> None:
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(
        LoadError, match=r"takes one batch of images, but its forward takes \(x, y, scale=1.0\); wrap it"
    ):
        load(path, f"{code}:Two")


def test_wrong_channels(network: Tiny, code: Path) -> None:
    path = saved(network.state_dict(), code.parent / "net.pth")
    with pytest.raises(LoadError, match="takes 3 channels, got an input of 1x8x8; type --input-shape 3x8x8"):
        load(path, f"{code}:Tiny", input_shape=(1, 8, 8))


def options(**given) -> ModelOptions:
    return ModelOptions("net.pth", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"preset": "cifar"},
            r"expected --preset auto\|imagenet\|cifar10\|inception\|unit\|bytes\|caffe, got 'cifar'",
        ),
        ({"channel_order": "gbr"}, r"expected --channel-order auto\|rgb\|bgr, got 'gbr'"),
        (
            {"preset": "cifar10", "mean": (0.5,), "std": (0.5,)},
            "--preset cifar10 and --mean conflict.*leave --preset out",
        ),
        ({"input_shape": (1, 8, 8), "channel_order": "bgr"}, "3 channels for --channel-order bgr, got 1"),
        ({"mean": (0.5,)}, "--mean and --std belong together: got --mean without --std"),
        (
            {"mean": (0.5, 0.5), "std": (1.0,), "input_shape": (3, 8, 8)},
            "expected one value for --mean, or one for each of the input",
        ),
        ({"mean": (0.5,), "std": (0.0,)}, "expected --std above 0"),
        ({"input_shape": (3, 0, 8)}, "sizes from 1 up, got 3x0x8"),
    ],
)
def test_options_that_contradict(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        options(**given)


def test_input_is_never_guessed(network: Tiny, code: Path) -> None:
    path = saved(network.state_dict(), code.parent / "net.pth")
    arch = f"{code}:Tiny"
    with pytest.raises(
        OptionsError, match=r"shape is unknown \(the network runs on any;.*: type --input-shape.*--preset"
    ):
        load(path, arch, input_shape=None)
    with pytest.raises(OptionsError, match=r"normalisation is unknown: type --mean and --std.*unit"):
        load(path, arch, preset=None)
    assert load(path, arch, preset="cifar10", input_shape=None).spec.shape == (3, 32, 32)
    spec = load(path, arch, preset="auto", mean=(0.1,), std=(0.5,)).spec
    assert spec == InputSpec((3, 8, 8), (0.1,), (0.5,))
