"""ExportedPrograms and TorchScript: live batch norms, the same numbers, a free batch, and no code."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from converter.errors import LoadError, OptionsError
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.load.pt2_safety import honest_expression

pytestmark = [
    # PyTorch's own notices about TorchScript, which these tests have to write.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


class Residual(nn.Module):
    """Batch norms in series, one without affine, with a branch, dropout and a control flow on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False))
        self.fc = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block(x))
        x = nn.functional.dropout(x.mean((2, 3)), 0.5, self.training)
        return self.norm(self.fc(x))


@pytest.fixture(scope="module")
def network() -> Residual:
    torch.manual_seed(0)
    network = Residual()
    for _ in range(3):
        network(torch.randn(16, 3, 8, 8) * 2 + 1)
    return network.eval()


def save_pt2(network: nn.Module, path: Path, *, dynamic: bool = True) -> Path:
    shapes = ({0: Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes), path)
    return path


def load(path: Path, **options) -> Teacher:
    return load_model(ModelOptions(str(path), **({"preset": "unit"} | options)))


def assert_live_and_equal(teacher: Teacher, network: nn.Module, batch_norms: int = 3) -> None:
    """Hooks see the input of every batch norm, and outputs are the original's for any batch."""
    seen: list[str] = []
    hooks = [
        m.register_forward_hook(lambda m, *_: seen.append(type(m).__name__))
        for m in teacher.module.modules()
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(teacher.module(x), network(x), rtol=1e-5, atol=1e-6)  # other op order
    for hook in hooks:
        hook.remove()
    assert teacher.bn_layers == batch_norms
    assert seen[:batch_norms] == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d"][:batch_norms]
    assert teacher.parameters == sum(p.numel() for p in network.parameters())


def test_exported_program(network: Residual, tmp_path: Path) -> None:
    teacher = load(save_pt2(network, tmp_path / "net.pt2"))
    assert_live_and_equal(teacher, network)
    assert (teacher.spec.shape, teacher.classes) == ((3, 8, 8), 6)
    assert dict(teacher.module.named_modules())["stem.1"].eps == 1e-3
    assert {key for key in network.state_dict() if "tracked" not in key} <= set(teacher.module.state_dict())


def test_exported_in_training_mode_is_put_into_eval(network: Residual, tmp_path: Path) -> None:
    network.train()
    try:
        path = save_pt2(network, tmp_path / "net.pt2")
    finally:
        network.eval()
    assert_live_and_equal(load(path), network)


def test_exported_with_decompositions(network: Residual, tmp_path: Path) -> None:
    program = torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program.run_decompositions(), tmp_path / "net.pt2")
    assert_live_and_equal(load(tmp_path / "net.pt2"), network)


def test_exported_network_can_be_exported_again(network: Residual, tmp_path: Path) -> None:
    teacher = load(save_pt2(network, tmp_path / "net.pt2"))
    again = save_pt2(teacher.module, tmp_path / "again.pt2")
    assert_live_and_equal(load(again), network)


def test_exported_refusals(network: Residual, tmp_path: Path) -> None:
    fixed = save_pt2(network, tmp_path / "fixed.pt2", dynamic=False)
    with pytest.raises(LoadError, match=r"fixed batch of 2; export it again .*dynamic_shapes=\(\{0: .*Dim\("):
        load(fixed)
    path = save_pt2(network, tmp_path / "net.pt2")
    with pytest.raises(LoadError, match="exported for inputs of 3x8x8, got --input-shape 3x16x16"):
        load(path, input_shape=(3, 16, 16))
    with pytest.raises(OptionsError, match="brings its architecture; leave --arch resnet18 out"):
        load(path, arch="resnet18")
    with pytest.raises(OptionsError, match="normalisation is unknown"):
        load(path, preset=None)


def replaced(path: Path, name: str, change) -> Path:
    """A copy of an archive with one record changed."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith(name) else data)
    return copy


class Payload:
    """Unpickled by an ordinary unpickler, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_an_exported_program_never_runs(network: Residual, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save((Payload(mark),), tmp_path / "payload.pt")
    path = save_pt2(network, tmp_path / "net.pt2")
    load(replaced(path, "nothing", bytes))  # the copying itself does no harm
    evil = replaced(path, "sample_inputs/model.pt", lambda _: (tmp_path / "payload.pt").read_bytes())
    with pytest.raises(LoadError, match=r"changed.pt2"):
        load(evil)
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_code_in_a_symbolic_size_never_runs(network: Residual, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"__import__('os').mkdir('{mark}')".encode()
    path = save_pt2(network, tmp_path / "net.pt2")
    evil = replaced(path, "model.json", lambda d: _with_expression(d, code))
    with pytest.raises(LoadError, match=r"holds the expression .*__import__.*--trust-pickle"):
        load(evil)
    assert not mark.exists()


def _with_expression(data: bytes, code: bytes) -> bytes:
    import json

    text = json.dumps(code.decode())
    start = data.index(b'"expr_str"')
    colon = data.index(b":", start)
    end = data.index(b",", data.index(b")", colon))
    return data[: colon + 1] + text.encode() + data[end:]


@pytest.mark.parametrize(
    "text",
    ["Symbol('s77', positive=True, integer=True)", "2*s0 + Mod(s1, 8)", "FloorDiv(s0, 2)", "-1", "2.5*s3"],
)
def test_honest_expressions(text: str) -> None:
    assert honest_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "exec('x')",
        "().__class__",
        "s0.real",
        "open(s0)",
        "Symbol('x')",
        "eval(s0)",
        "[s0]",
        "lambda: 1",
        "s0 if 1 else 2",
    ],
)
def test_dishonest_expressions(text: str) -> None:
    assert not honest_expression(text)


def test_damaged_exported_program(network: Residual, tmp_path: Path) -> None:
    path = save_pt2(network, tmp_path / "net.pt2")
    with pytest.raises(LoadError, match="can't be read as an ExportedProgram"):
        load(replaced(path, "model.json", lambda _: b"{}"))


@pytest.mark.parametrize("content", [b"", b"\0" * 4])
def test_torchscript_whose_tensors_are_cut_off(content: bytes, network: Residual, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.trace(network, torch.randn(2, 3, 8, 8)).save(path)
    with pytest.raises(
        LoadError, match=rf"record data/\d+ has {len(content)} bytes, and the tensor in it needs"
    ):
        load(replaced(path, "data/0", lambda _: content), input_shape=(3, 8, 8))


@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript(how: str, network: Residual, tmp_path: Path) -> None:
    script = (
        torch.jit.trace(network, torch.randn(2, 3, 8, 8)) if how == "trace" else torch.jit.script(network)
    )
    script.save(tmp_path / "net.pt")
    teacher = load(tmp_path / "net.pt", input_shape=(3, 8, 8))
    assert_live_and_equal(teacher, network)
    assert teacher.classes == 6
    save_pt2(teacher.module, tmp_path / "again.pt2")
    with pytest.raises(OptionsError, match="shape is unknown"):
        load(tmp_path / "net.pt")


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).reshape(2, 3) + torch.zeros(2, 1)


def test_torchscript_that_fixes_the_batch(tmp_path: Path) -> None:
    torch.jit.trace(FixedBatch(), torch.randn(2, 3, 8, 8)).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match=r"net.pt was exported with a fixed batch of 2; export it again"):
        load(tmp_path / "net.pt", input_shape=(3, 8, 8))


def test_torchscript_with_a_wrong_shape(network: Residual, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match=r"can't be translated for inputs of 1x8x8.*check --input-shape"):
        load(tmp_path / "net.pt", input_shape=(1, 8, 8))
