"""Exported programs and TorchScript: live batch norms, the same numbers, a free batch, and no code."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from converter.errors import CaptureError, LoadError, OptionsError
from converter.graph.capture import graph_from_onnx
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.load.pt2_safety import honest_expression
from tests.converter.networks import randomised

pytestmark = [
    # PyTorch's own notices about TorchScript, which these tests have to write.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
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
    return randomised(Residual()).eval()


def save_pt2(network: nn.Module, path: Path, *, dynamic: bool = True) -> Path:
    shapes = ({0: Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes), path)
    return path


def load(path: Path, **options) -> Teacher:
    usual = {} if "preset" in options else {"mean": (0.0,), "std": (1.0,)}
    return load_model(ModelOptions(str(path), **(usual | options)))


def assert_live_and_equal(teacher: Teacher, network: nn.Module, batch_norms: int = 3) -> None:
    """Hooks see the input of every batch norm, and outputs are the original's for any batch."""
    seen: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _module, inputs, _: seen.append(inputs[0].ndim))
        for module in teacher.module.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(teacher.module(x), network(x), rtol=1e-4, atol=1e-5)  # other op order
    for hook in hooks:
        hook.remove()
    assert teacher.bn_layers == batch_norms
    assert seen[:batch_norms] == [4, 4, 2][:batch_norms]


def assert_names(teacher: Teacher, network: nn.Module) -> None:
    """Weights are called as in the network, and the ends of the graph as for any network of PyTorch."""
    assert {key for key, _ in network.named_parameters()} <= set(teacher.module.state_dict())
    assert teacher.onnx is not None
    graph = graph_from_onnx(teacher.onnx, teacher.spec).onnx.graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "logits"]
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        8,
        8,
    ]
    assert "BatchNormalization" not in {
        node.op_type for node in graph.node[:4]
    }  # folded into the convolutions


def test_exported_program(network: Residual, tmp_path: Path) -> None:
    teacher = load(save_pt2(network, tmp_path / "net.pt2"))
    assert_live_and_equal(teacher, network)
    assert_names(teacher, network)
    assert (teacher.spec.shape, teacher.probe["logits"].shape[1], teacher.notes) == ((3, 8, 8), 6, ())
    assert dict(teacher.module.named_modules())["stem.1"].eps == pytest.approx(1e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_is_freed(batch: int, tmp_path: Path) -> None:
    network = nn.Sequential(randomised(Residual()), nn.Unflatten(1, (3, 2)), nn.Flatten()).eval()
    torch.export.save(torch.export.export(network, (torch.randn(batch, 3, 8, 8),)), tmp_path / "net.pt2")
    teacher = load(tmp_path / "net.pt2")
    assert_live_and_equal(teacher, network)
    assert teacher.notes == (f"the file fixes its batch to {batch}; the converted network takes any",)


@pytest.mark.parametrize("decomposed", [False, True])
def test_exported_in_training_mode_is_put_into_eval(
    decomposed: bool, network: Residual, tmp_path: Path
) -> None:
    training = Residual()
    training.load_state_dict(network.state_dict())
    shapes = ({0: Dim("batch")},)
    program = torch.export.export(training.train(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program.run_decompositions() if decomposed else program, tmp_path / "net.pt2")
    assert_live_and_equal(load(tmp_path / "net.pt2"), network)


def test_exported_with_decompositions(network: Residual, tmp_path: Path) -> None:
    program = torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program.run_decompositions(), tmp_path / "net.pt2")
    assert_live_and_equal(load(tmp_path / "net.pt2"), network)


def test_exported_with_free_sizes(network: Residual, tmp_path: Path) -> None:
    shapes = ({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},)
    torch.export.save(
        torch.export.export(network, (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes), tmp_path / "net.pt2"
    )
    teacher = load(tmp_path / "net.pt2", input_shape=(3, 8, 8))
    assert_live_and_equal(teacher, network)
    assert_names(teacher, network)
    with pytest.raises(OptionsError, match="shape is unknown"):
        load(tmp_path / "net.pt2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_exported_in_half_precision(dtype: torch.dtype, network: Residual, tmp_path: Path) -> None:
    half = randomised(Residual()).eval()
    half.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    torch.export.save(torch.export.export(half.to(dtype), (x,)), tmp_path / "net.pt2")
    teacher = load(tmp_path / "net.pt2")
    assert_live_and_equal(teacher, half.float())
    assert {value.dtype for value in teacher.module.parameters()} == {torch.float32}


class Pieces(nn.Module):
    """Squeezes, checks its types, and makes numbers where its input lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.norm(self.conv(x)), 1).squeeze()
        return (self.fc(x) * torch.arange(5, device=x.device)).to(torch.float32)


def as_on_gpu(path: Path) -> Path:
    """A copy of an exported program, all of whose tensors are said to lie on a GPU."""

    def move(data: bytes) -> bytes:
        return data.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')

    return replaced(path, ".json", move)


@pytest.mark.parametrize("how", ["exported", "exported on a GPU", "traced"])
def test_all_but_the_batch_is_squeezed(how: str, tmp_path: Path) -> None:
    network = randomised(Pieces()).eval()
    if how == "traced":
        path = tmp_path / "net.pt"
        torch.jit.trace(network, torch.randn(2, 3, 8, 8)).save(path)
    else:
        path = save_pt2(network, tmp_path / "net.pt2")
        assert "_assert_tensor_metadata" in str(torch.export.load(path).graph)
    teacher = load(as_on_gpu(path) if how == "exported on a GPU" else path, input_shape=(3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), network(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(teacher.module(x[:1]), network(x)[:1], rtol=1e-4, atol=1e-5)
    assert teacher.parameters == sum(
        p.numel() for p in network.parameters()
    )  # no bias of zeros for the convolution


def test_exported_refusals(network: Residual, tmp_path: Path) -> None:
    path = save_pt2(network, tmp_path / "net.pt2")
    with pytest.raises(LoadError, match="exported for inputs of 3x8x8, got --input-shape 3x16x16"):
        load(path, input_shape=(3, 16, 16))
    with pytest.raises(OptionsError, match="brings its architecture; leave --arch resnet18 out"):
        load(path, arch="resnet18")
    with pytest.raises(OptionsError, match="normalisation is unknown"):
        load(path, preset=None)


class Several(nn.Module):
    """Answers as ``how`` says, and takes what ``torch.export`` is given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        x = self.conv(x)
        if self.how == "noise":
            return torch.nn.functional.dropout(x.mean((2, 3)), 0.5, training=True) + torch.rand_like(
                x[:, :, 0, 0]
            )
        return {
            "pair": (x.mean((2, 3)), x),
            "map": x,
            "mean": x.mean(0),
            "two": x.mean((2, 3)) if y is None else y,
        }[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("mean", r"outputs of shape 2x... for 2 images, got output of 4x6x6; wrap it in a module"),
        ("noise", "answers differently to the same input"),
        ("two", "one input tensor, got 2 inputs"),
    ],
)
def test_what_cannot_be_converted_is_refused(how: str, message: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    inputs = (x, x) if how == "two" else (x,)
    torch.export.save(torch.export.export(Several(how).eval(), inputs), tmp_path / "net.pt2")
    with pytest.raises(LoadError, match=message):
        load(tmp_path / "net.pt2")


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize(
    ("how", "shapes"), [("pair", {"output_0": (4,), "output_1": (4, 6, 6)}), ("map", {"output": (4, 6, 6)})]
)
def test_several_outputs_and_maps_are_taken(
    how: str, shapes: dict[str, tuple[int, ...]], script: bool, tmp_path: Path
) -> None:
    network, x, path = Several(how).eval(), torch.randn(2, 3, 8, 8), tmp_path / "net.pt2"
    if script:
        torch.jit.trace(network, x).save(path)
    else:
        torch.export.save(torch.export.export(network, (x,)), path)
    teacher = load(path, input_shape=(3, 8, 8))
    assert {name: tuple(output.shape[1:]) for name, output in teacher.probe.items()} == shapes
    with torch.no_grad():
        expected, found = network(x), teacher.module(x)
    pairs = zip(expected, found, strict=True) if how == "pair" else [(expected, found)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


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
    assert_names(teacher, network)
    assert (teacher.probe["logits"].shape[1], teacher.notes) == (6, ())
    with pytest.raises(OptionsError, match="shape is unknown"):
        load(tmp_path / "net.pt")


def test_frozen_torchscript_has_its_batch_norms_in_the_convolutions(
    network: Residual, tmp_path: Path
) -> None:
    torch.jit.freeze(torch.jit.script(network)).save(tmp_path / "net.pt")
    teacher = load(tmp_path / "net.pt", input_shape=(3, 8, 8))
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(teacher.module(x), network(x), rtol=1e-4, atol=1e-5)


class Branches(nn.Module):
    """Control flow on what doesn't change from image to image, attention, and a weight that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 4, 4)), nn.BatchNorm2d(8)
        self.attention, self.up = nn.MultiheadAttention(8, 2, batch_first=True), nn.ConvTranspose2d(8, 4, 2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.norm(self.conv(x)))
        tokens = x.flatten(2).transpose(1, 2)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
        return self.fc(self.up(x).mean((2, 3)))


def test_traced_attention_and_weight_norm(tmp_path: Path) -> None:
    network = randomised(Branches()).eval()
    # The check would trace again without gradients, on another path.
    torch.jit.trace(network, torch.randn(2, 3, 8, 8), check_trace=False).save(tmp_path / "net.pt")
    teacher = load(tmp_path / "net.pt", input_shape=(3, 8, 8))
    assert_live_and_equal(teacher, network, 1)


def test_attention_that_was_traced_on_the_fast_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        torch.jit.trace(Branches().eval(), torch.randn(2, 3, 8, 8)).save(tmp_path / "net.pt")
    with pytest.raises(
        CaptureError, match=r"_native_multi_head_attention.*mha.set_fastpath_enabled\(False\)"
    ):
        load(tmp_path / "net.pt", input_shape=(3, 8, 8))
    assert capfd.readouterr() == ("", "")


class Sized(nn.Module):
    """Branches on its mode and on the height."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.training:
            x = x + torch.randn_like(x)
        if x.size(2) > 4:
            x = nn.functional.avg_pool2d(x, 2)
        return self.fc(x.mean((2, 3)))


def test_scripted_control_flow_is_settled_by_mode_and_size(tmp_path: Path) -> None:
    network = randomised(Sized()).eval()
    torch.jit.script(network).save(tmp_path / "net.pt")
    teacher = load(tmp_path / "net.pt", input_shape=(3, 8, 8))
    assert_live_and_equal(teacher, network, 1)
    assert teacher.onnx is not None
    operators = [node.op_type for node in teacher.onnx.graph.node]
    assert "AveragePool" in operators
    assert "If" not in operators


def test_traced_in_training_mode(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.jit.trace(network.train(), torch.randn(2, 3, 8, 8), check_trace=False).save(tmp_path / "net.pt")
    with pytest.raises(
        LoadError, match=r"net.pt in inference mode, but .* in training mode; call model.eval\(\)"
    ):
        load(tmp_path / "net.pt", input_shape=(3, 8, 8))


class FixedBatch(nn.Module):
    """Takes ``batch`` images; ``hard`` mixes them in a way that no other number has."""

    def __init__(self, batch: int, *, hard: bool) -> None:
        super().__init__()
        self.batch, self.hard = batch, hard

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3)) + torch.zeros(self.batch, 3)
        return x.flip(0) if self.hard else x


def test_torchscript_that_fixes_the_batch(tmp_path: Path) -> None:
    easy, hard = tmp_path / "easy.pt", tmp_path / "hard.pt"
    torch.jit.trace(FixedBatch(1, hard=False), torch.randn(1, 3, 8, 8)).save(easy)
    torch.jit.trace(FixedBatch(2, hard=True), torch.randn(2, 3, 8, 8)).save(hard)
    assert load(easy, input_shape=(3, 8, 8)).probe["logits"].shape[1] == 3
    with pytest.raises(CaptureError, match=r"hard.pt to .* images.*export it with a dynamic batch"):
        load(hard, input_shape=(3, 8, 8))


class WholeMean(nn.Module):
    """Takes one image, as a mean over all channels is one over all images too."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3)).view(1, 3)
        return x - x.mean()


@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_a_fixed_batch_of_one_that_stays_converts_sample_by_sample(kind: str, tmp_path: Path) -> None:
    network, path = WholeMean().eval(), tmp_path / f"net.{kind}"
    if kind == "pt":
        torch.jit.trace(network, torch.randn(1, 3, 8, 8)).save(path)
    else:
        torch.export.save(torch.export.export(network, (torch.randn(1, 3, 8, 8),)), path)
    teacher = load(path, input_shape=(3, 8, 8) if kind == "pt" else None)
    assert (teacher.one_by_one, teacher.notes) == (True, ())
    x = torch.rand(4, 3, 8, 8)
    expected = torch.cat([network(image) for image in x.split(1)])
    torch.testing.assert_close(teacher.module(x), expected, atol=1e-5, rtol=1e-4)


def test_torchscript_with_a_wrong_shape(network: Residual, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match=r"fails on inputs of 1x8x8: .* 3 channels.*check --input-shape"):
        load(tmp_path / "net.pt", input_shape=(1, 8, 8))
