"""ONNX files whose weights lie in other files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import BuildError
from engines.onnx_passes import external_data
from engines.onnx_passes.file import load_onnx

WEIGHTS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(4, np.float32)}


def model() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "net",
        [info("x", TensorProto.FLOAT, ["n", 3])],
        [info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(path: Path, location: str | None) -> Path:
    """A file with its weights at ``location``, or each in a file of its own."""
    if location is not None:
        (path.parent / location).parent.mkdir(exist_ok=True)
    onnx.save_model(
        model(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=location is not None,
        location=location,
        size_threshold=0,
    )
    return path


@pytest.mark.parametrize("location", ["weights.bin", "data/weights.bin", None])
def test_the_weights_are_read_into_the_model(location: str | None, tmp_path: Path) -> None:
    loaded = load_onnx(saved(tmp_path / "net.onnx", location))
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHTS[tensor.name])
        assert tensor.data_location == TensorProto.DEFAULT


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", "weights.bin")
    (tmp_path / "weights.bin").unlink()
    match = (
        r"keeps its weights in weights\.bin, but there is no file .*weights\.bin; copy it beside the model"
    )
    with pytest.raises(BuildError, match=match):
        load_onnx(path)


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(BuildError, match=r"exceeds available data .*; copy or export it again"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", ""])
def test_a_place_outside_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = saved(folder / "net.onnx", "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    outside = onnx.load(path, load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    onnx.save_model(outside, path)
    with pytest.raises(BuildError, match="in a file inside of its folder, got "):
        load_onnx(path)


def test_more_than_one_file_can_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "net.onnx", "weights.bin")
    beside = path.stat().st_size
    (tmp_path / "weights.bin").write_bytes(b"")  # reading it would fail
    monkeypatch.setattr(external_data, "LARGEST_ONNX", beside + 10)
    with pytest.raises(BuildError, match=r"a network of less than 2 GB, got 0\.0 GB in .*net\.onnx"):
        load_onnx(path)


def test_a_file_of_more_than_2_gb_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # of zeros, which take no place on the disk
    with pytest.raises(BuildError, match=r"got 2\.1 GB"):
        load_onnx(path)
