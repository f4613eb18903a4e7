"""The digits example: its files are what its README says, and its script still makes them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.cli.convert import command as convert

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
README = (DIGITS / "README.md").read_text(encoding="utf-8")

# One image of the 500: another machine may round a logit the other way.
ACCURACY_TOLERANCE_PERCENT = 0.2


def stated(pattern: str) -> float:
    """The one number that the example's README gives in the place of the group."""
    values = set(re.findall(pattern, README))
    assert len(values) == 1, f"expected one value of {pattern} in README.md, got {values}"
    return float(values.pop())


def trained_model() -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("digits_model", DIGITS / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.digits_resnet()
    model.load_state_dict(torch.load(DIGITS / "digits.pth", map_location="cpu", weights_only=True))
    return model.eval()


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with np.load(DIGITS / "test.npz", allow_pickle=False) as data:
        return data["images"], data["labels"]


def all_digits() -> "Counter[tuple[bytes, int]]":
    """Every image of scikit-learn's set, scaled to 0..255, with its label."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, digits.target, strict=True))


def test_checkpoint_is_a_small_float32_state_dict() -> None:
    assert (DIGITS / "digits.pth").stat().st_size < 1_000_000
    state = torch.load(DIGITS / "digits.pth", weights_only=True)
    assert isinstance(state, dict)
    kinds = {value.dtype for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert kinds == {torch.float32}


def test_checkpoint_reaches_the_stated_accuracy() -> None:
    mean, std, accuracy = stated(r"--mean ([\d.]+)"), stated(r"--std ([\d.]+)"), stated(r"([\d.]+) %")
    images, labels = held_out()
    x = (torch.from_numpy(images).float().unsqueeze(1) / 255 - mean) / std
    with torch.no_grad():
        predicted = trained_model()(x).argmax(dim=1).numpy()
    assert accuracy >= 98.5
    assert 100 * float((predicted == labels).mean()) == pytest.approx(
        accuracy, abs=ACCURACY_TOLERANCE_PERCENT
    )


def test_held_out_images_have_the_documented_format() -> None:
    images, labels = held_out()
    assert (images.shape, images.dtype) == ((500, 8, 8), np.dtype(np.uint8))
    assert (labels.shape, labels.dtype) == ((500,), np.dtype(np.int64))
    assert (images.min(), images.max()) == (0, 255)
    # 500 images of ten classes of nearly the same size.
    assert np.bincount(labels, minlength=10) == pytest.approx(50, abs=2)


def test_held_out_images_are_real_and_the_others_have_the_stated_statistics() -> None:
    images, labels = held_out()
    taken = Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    everything = all_digits()
    assert taken <= everything
    rest = np.frombuffer(b"".join(image for image, _ in (everything - taken).elements()), np.uint8) / 255
    assert rest.size == 1297 * 64
    assert stated(r"--mean ([\d.]+)") == pytest.approx(rest.mean(), abs=5e-4)
    assert stated(r"--std ([\d.]+)") == pytest.approx(rest.std(), abs=5e-4)


def test_makefile_runs_the_conversion_of_the_readme() -> None:
    def words(text: str) -> list[str]:
        command = re.search(r"zscgan-convert examples/.*?-o \S+", text, re.DOTALL)
        assert command is not None
        return command.group().replace("\\\n", " ").split()

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(DIGITS)", "examples/digits")
    assert words(makefile) == words(README)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_commands_for_three_kinds_of_models_parse(tmp_path: Path) -> None:
    """The script runs with a command that writes down how it was called."""
    stand_in = tmp_path / "zscgan-convert"
    stand_in.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" END >> '{tmp_path}/calls'\n")
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        ["bash", ROOT / "examples" / "three_models.sh", tmp_path], cwd=ROOT, env=environment, check=True
    )
    calls = (tmp_path / "calls").read_text().removesuffix("END\n").split("END\n")
    parsed = [convert.make_context("zscgan-convert", call.splitlines()).params for call in calls]
    models = [options["model"] for options in parsed]
    assert models == ["resnet18", "examples/digits/digits.pth", f"{tmp_path}/digits/model.fp32.onnx"]
    assert f"{parsed[1]['output']}/model.fp32.onnx" == models[2]


@pytest.mark.slow
def test_training_script_writes_the_same_split_and_loadable_weights(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "new"
    subprocess.run(
        [sys.executable, DIGITS / "train.py", "--epochs", "1", "--out", out],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert sorted(path.name for path in out.iterdir()) == ["digits.pth", "test.npz"]
    with np.load(out / "test.npz") as data:
        images, labels = held_out()
        assert np.array_equal(data["images"], images)
        assert np.array_equal(data["labels"], labels)
    trained_model().load_state_dict(torch.load(out / "digits.pth", weights_only=True))
