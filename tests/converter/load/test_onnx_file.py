"""ONNX files as MODEL: what is taken, what is changed, and what is refused."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper, parser

from calibrators.data.input_spec import InputSpec
from converter import pipeline
from converter.cli.convert import command
from converter.errors import CaptureError, LoadError, UnsupportedOperatorError
from converter.graph.capture import graph_from_onnx
from converter.load import onnx_file as onnx_source
from converter.load.model import PROBES, load_model
from converter.load.onnx_file import checked_source, require_same, source_from_onnx
from converter.load.options import ModelOptions
from converter.quantize.placement import place_quantizers
from converter.stages.benchmark import Benchmarked
from tests.converter.digits import QUICK
from tests.converter.reference import run_onnx

SPEC = InputSpec((3, 8, 8))
Weights = dict[str, np.ndarray]


def weights_of_a_classifier() -> Weights:
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((8, 3, 3, 3)),
        "w2": random.standard_normal((5, 8)),
        "b2": np.ones(5),
    }
    weights |= {name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "variance")}
    return {name: value.astype(np.float32) for name, value in weights.items()}


def classifier(
    path: Path,
    *,
    batch: int | str = "N",
    opset: int = 17,
    inputs_too: bool = False,
    reshape: tuple[int, ...] = (0, -1),
) -> Path:
    """Conv, BatchNormalization, Elu, pool, Reshape, Gemm: from ``pixels`` to ``scores``."""
    weights = weights_of_a_classifier() | {"shape": np.array(reshape)}
    node = helper.make_node
    nodes = [
        node("Conv", ["pixels", "w1"], ["a/conv:0"], "conv one"),
        node("BatchNormalization", ["a/conv:0", "gamma", "beta", "mean", "variance"], ["a/norm"], "norm one"),
        node("Elu", ["a/norm"], ["a/elu"]),
        node("GlobalAveragePool", ["a/elu"], ["pooled"]),
        node("Reshape", ["pooled", "shape"], ["flat"]),
        node("Gemm", ["flat", "w2", "b2"], ["scores"], transB=1),
    ]
    info = helper.make_tensor_value_info
    inputs = [info("pixels", TensorProto.FLOAT, [batch, 3, 8, 8])]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    if inputs_too:
        inputs += [info(t.name, t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "mine", inputs, [info("scores", TensorProto.FLOAT, [batch, 5])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"author": "me"})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_the_graph_is_the_users_own_and_takes_any_batch(batch: int | str, opset: int, tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx", batch=batch, opset=opset, inputs_too=opset == 9)
    source = source_from_onnx(path)
    require_same(source, SPEC, path)
    graph = graph_from_onnx(source.model, SPEC)
    assert [node.op_type for node in graph.onnx.graph.node] == [
        "Conv",
        "Elu",
        "GlobalAveragePool",
        "Reshape",
        "Gemm",
    ]
    assert graph.onnx.graph.node[0].name == "conv one"
    assert [v.name for v in (*graph.onnx.graph.input, *graph.onnx.graph.output)] == ["pixels", "scores"]
    assert graph.onnx.metadata_props[0].value == "me"
    assert graph.onnx.opset_import[0].version == max(opset, 13)
    assert [weight.tensor for weight in place_quantizers(graph.onnx).weights] == ["w1", "w2"]
    x = torch.randn(5, 3, 8, 8)
    for count in (1, 2, 5):
        with torch.no_grad():
            ours = graph.module(x[:count])
        (theirs,) = run_onnx(graph.onnx, x[:count], ["scores"], source="pixels")
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    assert (source.freed is None) == (batch == "N")


def test_the_teacher_has_live_batch_norms(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    teacher = load_model(ModelOptions(str(path), mean=(0.0,), std=(1.0,)))
    assert (teacher.name, teacher.bn_layers, teacher.spec.shape) == ("mine", 1, (3, 8, 8))
    assert {name: output.shape for name, output in teacher.probe.items()} == {"scores": (PROBES, 5)}
    assert teacher.onnx is not None


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    half = onnx.load(path)
    for tensor in half.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(half, path)
    source = source_from_onnx(path)
    assert source.notes == ("converted the FP16 weights to FP32",)
    require_same(source, SPEC, path)
    assert {value.dtype for value in source.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("batch", "inside", "note"),
    [
        (1, 1, "the file fixes its batch to 1; the converted network takes any"),
        ("N", 1, "the file leaves its batch open but fixes it to 1 inside; the converted network takes any"),
        ("N", 2, "the file leaves its batch open but fixes it to 2 inside; the converted network takes any"),
    ],
)
def test_a_batch_that_is_fixed_inside_is_made_free(
    batch: int | str, inside: int, note: str, tmp_path: Path
) -> None:
    path = classifier(tmp_path / "mine.onnx", batch=batch, reshape=(inside, 8))
    source = source_from_onnx(path)
    require_same(source, SPEC, path)
    assert source.freed == note


@pytest.mark.parametrize("batch", [2, "N"])
def test_a_network_that_mixes_its_images_is_refused(
    batch: int | str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = classifier(tmp_path / "mine.onnx", batch=batch)
    model = onnx.load(path)
    model.graph.node[2].CopyFrom(helper.make_node("Sub", ["a/norm", "all"], ["a/elu"]))
    model.graph.node.insert(2, helper.make_node("ReduceMean", ["a/norm"], ["all"], "mean of all"))
    onnx.save(model, path)
    where = r": its batch is fixed at node mean of all \(ReduceMean\)" if batch == 2 else ""
    match = (
        f"the same of . images together .* doesn't{where}; export it with a dynamic batch, or a batch of 1"
    )
    with pytest.raises(CaptureError, match=match):
        checked_source(source_from_onnx(path), SPEC, path)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    source = source_from_onnx(path)
    source.original.graph.node[0].name = source.original.graph.node[1].name
    with pytest.raises(CaptureError, match=rf"ONNX Runtime can load, got {path}: .*same node name"):
        require_same(source, SPEC, path)


def test_half_precision_that_is_too_large_in_float32_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = classifier(tmp_path / "mine.onnx")
    half = onnx.load(path)
    half.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(weights_of_a_classifier()["w1"].astype(np.float16), "w1")
    )
    half.graph.node.insert(0, helper.make_node("Cast", ["w1"], ["w1_"], to=TensorProto.FLOAT))
    half.graph.node[1].input[1] = "w1_"
    onnx.save(half, path)
    monkeypatch.setattr(onnx_source, "LARGEST_ONNX", path.stat().st_size + 100)
    with pytest.raises(LoadError, match="a network of less than 2 GB"):
        source_from_onnx(path)


def refused(model: onnx.ModelProto, path: Path, match: str, error: type[Exception] = LoadError) -> None:
    onnx.save(model, path)
    with pytest.raises(error, match=match):
        source_from_onnx(path)


def test_what_is_no_float_classifier_of_images_is_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    model = onnx.load(path)
    two = onnx.load(path)
    two.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, [2]))
    refused(two, path, r"one image input, got 2 \(pixels, size\)")
    flat = onnx.ModelProto.FromString(model.SerializeToString())
    flat.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    refused(flat, path, r"float input of batch x channels x height x width, got pixels: uint8 Nx3x8x8")
    quantized = onnx.ModelProto.FromString(model.SerializeToString())
    quantized.graph.node.append(helper.make_node("QuantizeLinear", ["scores", "w2"], ["q"]))
    refused(quantized, path, "already quantized .*zscgan-build")


def test_several_outputs_keep_their_names_and_order(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 8]))
    onnx.save(model, path)
    teacher = load_model(ModelOptions(str(path), mean=(0.0,), std=(1.0,)))
    shapes = {name: tuple(output.shape) for name, output in teacher.probe.items()}
    assert list(shapes.items()) == [("scores", (PROBES, 5)), ("flat", (PROBES, 8))]


def test_an_operator_without_a_twin_is_named(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    model = onnx.load(path)
    model.graph.node[2].op_type, model.graph.node[2].name = "Unique", "mine too"
    match = r"ai\.onnx\.Unique \(opset 17\) at node mine too"
    refused(model, path, match, UnsupportedOperatorError)


def test_weights_beside_the_file_end_up_inside(tmp_path: Path) -> None:
    path = classifier(tmp_path / "mine.onnx")
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="mine.bin", size_threshold=0)
    source = source_from_onnx(path)
    (tmp_path / "mine.bin").unlink()
    graph = graph_from_onnx(source.model, SPEC)
    onnx.checker.check_model(graph.onnx, full_check=True)
    assert run_onnx(graph.onnx, torch.zeros(1, 3, 8, 8), ["scores"], source="pixels")[0].shape == (1, 5)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"just text\n", "expected an ONNX network, but mine.onnx is none: .*; copy or export it again"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "is none: .*opset_import"),
        (None, "keeps its weights in mine.bin, but there is no file mine.bin; copy it beside the model"),
    ],
)
def test_what_is_no_model_ends_in_one_message(
    content: bytes | None, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        model = onnx.load(classifier(Path("mine.onnx")))
        onnx.save_model(model, "mine.onnx", save_as_external_data=True, location="mine.bin", size_threshold=0)
        Path("mine.bin").unlink()
    else:
        Path("mine.onnx").write_bytes(content)
    result = CliRunner().invoke(command, ["mine.onnx", "--int8", "--preset", "unit"])
    assert result.exit_code == 1
    assert re.fullmatch(rf"error: .*{match}.*\n", result.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx"]


@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_a_file_cut_short_ends_in_one_message(
    keep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = classifier(tmp_path / "mine.onnx").read_bytes()
    Path("mine.onnx").write_bytes(content[: int(keep * len(content))])
    result = CliRunner().invoke(command, ["mine.onnx", "--int8", "--preset", "unit"])
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
    assert "mine.onnx" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx"]


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "benchmark", lambda *_: Benchmarked([]))  # seconds that say nothing here
    path = classifier(tmp_path / "mine.onnx", batch=1)
    result = CliRunner().invoke(command, [str(path), *QUICK, "--preset", "unit", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    int8 = onnx.load(tmp_path / "out" / "model.int8.onnx")
    assert [node.op_type for node in int8.graph.node].count("QuantizeLinear") == 3  # two layers and the pool
    assert int8.graph.input[0].name == "pixels"
    assert "fixes its batch to 1" in result.stderr


@pytest.mark.parametrize("batch", ["N", 1])
def test_images_on_another_axis_than_the_first_are_told(batch: int | str, tmp_path: Path) -> None:
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[{batch}, 3, 8, 8] x) => (float[8, {batch}, 3] words)
        <float[3, 3, 8, 1] w = {{{", ".join(["0.1"] * 72)}}}>
        {{
            y = Conv(x, w)
            axes = Constant<value_ints=[2]>()
            z = Squeeze(y, axes)
            words = Transpose<perm=[2, 0, 1]>(z)
        }}"""
    )
    onnx.save(model, tmp_path / "ocr.onnx")
    with pytest.raises((CaptureError, LoadError), match=r"first.* got words of \d+x\dx3 for 2 images"):
        load_model(ModelOptions(str(tmp_path / "ocr.onnx"), preset="unit"))
