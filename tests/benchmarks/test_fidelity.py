"""The script around the measurements: options, reuse of samples, the table, and one tiny run of its processes."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fidelity
import numpy as np
import pytest
import torch
import trial
from architectures import resnet20
from conversion import Network, noise_file
from fidelity import evaluations_from_text, gan_overrides, synthesised
from figures import label, spread, table
from measure import Bench
from measure import main as measure
from sources import main as make_samples
from trial import SourceOptions, calibration_images, load_network, parts_of, save_network

from calibrators.data.input_spec import InputSpec
from tests.converter.networks import randomised


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A random ResNet-20 with 10 random images to measure and 40 to calibrate, in parts of 10."""
    monkeypatch.setattr(trial, "SAMPLES", 10)
    torch.manual_seed(0)
    torch.save(randomised(resnet20()).state_dict(), tmp_path / "weights.pth")
    random = np.random.default_rng(0)
    for name, count in (("val", 10), ("calib", 40)):
        images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 10)
    paths = (tmp_path / name for name in ("val.npz", "calib.npz"))
    return Network(tmp_path / "weights.pth", "resnet20", (3, 32, 32), (0.5,) * 3, (0.25,) * 3, *paths)


def test_a_network_is_read_back_as_it_was_written(network: Network, tmp_path: Path) -> None:
    assert load_network(save_network(network, tmp_path / "network.json")) == network


def test_parts_have_no_image_in_common_and_every_class(network: Network) -> None:
    spec = InputSpec((3, 32, 32))
    assert parts_of(network) == 3
    parts = [calibration_images(network, spec, part, 10) for part in range(3)]
    taken = {index for part in parts for index in part.order}
    assert len(taken) == 30
    assert all(sorted(index % 10 for index in part.order) == list(range(10)) for part in parts)


def test_too_few_images_are_the_same_for_every_part(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SAMPLES", 50)
    parts = [calibration_images(network, InputSpec((3, 32, 32)), part, 50) for part in (0, 3)]
    assert [len(part.order) for part in parts] == [40, 40]
    assert parts[0].order == parts[1].order


def test_a_key_holds_what_the_samples_depend_on() -> None:
    options = SourceOptions("zeroq", 1, gan={"steps": 3})
    assert options.key() == replace(options, gan={}, mct_iterations=5, mct_python="other").key()
    assert options.key() != replace(options, zeroq_iterations=5).key()
    gan = replace(options, source="zscgan")
    assert gan.key() != replace(gan, gan={}).key()


def test_noise_of_another_seed_is_other_noise(network: Network, tmp_path: Path) -> None:
    pixels = []
    for seed in (0, 0, 1):
        with np.load(noise_file("uniform", network, tmp_path, seed)) as archive:
            pixels.append(archive["images"][:2])
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_overrides_take_the_type_of_the_field() -> None:
    assert gan_overrides(["steps=40", "bn_weight=10"]) == {"steps": 40, "bn_weight": 10.0}
    assert gan_overrides([]) == {}


@pytest.mark.parametrize("given", ["stepps=4", "steps", "steps=few", "seed=3"])
def test_wrong_overrides_are_refused(given: str) -> None:
    with pytest.raises(SystemExit, match="--set"):
        gan_overrides([given])


def test_evaluations() -> None:
    assert evaluations_from_text("8:entropy,4:mse") == [(8, "entropy"), (4, "mse")]


@pytest.mark.parametrize("given", ["4:entropy", "4", "1:mse", "8:best", "x:mse"])
def test_wrong_evaluations_are_refused(given: str) -> None:
    with pytest.raises(SystemExit, match="expected"):
        evaluations_from_text(given)


def test_samples_are_reused_only_if_they_were_made_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def run(_script: str, _network: str, output: str, options: str, *, threads: int) -> float:
        made.append(output)
        given = SourceOptions(**json.loads(options))
        Path(output).touch()
        Path(output).with_suffix(".json").write_text(json.dumps({"key": given.key()}))
        return 7.0

    monkeypatch.setattr(fidelity, "run", run)
    options = SourceOptions("gaussian", 0)
    path = synthesised(options, tmp_path, tmp_path, reuse=True, threads=1)
    assert json.loads(path.with_suffix(".json").read_text())["peak_mib"] == 7.0
    synthesised(options, tmp_path, tmp_path, reuse=True, threads=1)
    assert len(made) == 1
    synthesised(replace(options, samples=9), tmp_path, tmp_path, reuse=True, threads=1)
    assert len(made) == 2
    synthesised(replace(options, samples=9), tmp_path, tmp_path, reuse=False, threads=1)
    assert len(made) == 3


def test_a_failed_process_stops_the_run() -> None:
    with pytest.raises(SystemExit, match=r"failed with status 2: .*nowhere\.py"):
        fidelity.run("nowhere.py", "network.json", "nowhere.npz", "{}", threads=1)


def test_the_table_has_medians_and_spread() -> None:
    def row(seed: int, top1: float) -> dict[str, Any]:
        error = {"median": 0.1 * (seed + 1), "largest": 1.0, "signed_median": 0.0}
        return {
            "key": {"source": "images", "seed": seed},
            "samples": 512,
            "seconds": 2.0,
            "peak_mib": 100.0 + seed,
            "bn_kl": 0.5,
            "range_error": dict.fromkeys(("entropy", "max", "percentile", "mse"), error),
            "accuracy": {"W8A8 max": {"top1": top1, "agreement": 99.0, "kl": 0.0123}},
        }

    rows = [row(0, 90.0), row(1, 80.0), row(2, 91.0)]
    document = {"network": "n", "fp32_top1": 91.5, "images": 500, "quantized_tensors": 3, "rows": rows}
    *_, last = table(document).splitlines()
    assert last.startswith("| images | 3 | 512 | 2 (2..2) | 102 | 0.500 (0.500..0.500) | 0.200 / 1.00 |")
    assert last.endswith("| 90.0 (80.0..91.0) / 99.0 / 0.012 |")
    assert spread([1.26], 1) == "1.3"


def test_labels_tell_what_was_changed() -> None:
    gan: dict[str, Any] = {"key": {"source": "zscgan", "gan": {"steps": 9, "width": 16}}}
    assert label(gan) == "zscgan (steps=9, width=16)"
    mct = {"key": {"source": "mct"}, "iterations": 20, "defaults": {"n_iter": 500}}
    assert label(mct) == "mct (20 of 500 iterations)"
    assert label({**mct, "iterations": 500}) == "mct"
    assert label({"key": {"source": "zeroq"}, "iterations": [72]}) == "zeroq (72 iterations)"


@pytest.mark.slow
def test_samples_are_made_and_measured(network: Network, tmp_path: Path) -> None:
    described = save_network(network, tmp_path / "network.json")
    paths = []
    for source in ("images", "gaussian", "zeroq"):
        paths.append(tmp_path / f"{source}-0.npz")
        make_samples(described, paths[-1], SourceOptions(source, 0, samples=10, zeroq_iterations=1))
        made = json.loads(paths[-1].with_suffix(".json").read_text())
        assert made["samples"] == (64 if source == "zeroq" else 10)
        assert made["seconds"] > 0
    settings = {
        "samples": list(map(str, paths)),
        "evaluate": [(8, "max"), (4, "mse")],
        "input_range": "pixels",
        "device": "cpu",
        "judged": 0,
        "output": str(tmp_path / "rows.json"),
    }
    measure(described, settings)
    document = json.loads((tmp_path / "rows.json").read_text())
    assert document["images"] == 10
    assert [row["key"]["source"] for row in document["rows"]] == ["images", "gaussian", "zeroq"]
    for row in document["rows"]:
        assert set(row["accuracy"]) == {"W8A8 max", "W4A4 mse"}
        assert 0 < row["accuracy"]["W8A8 max"]["kl"] < row["accuracy"]["W4A4 mse"]["kl"]
        assert len(row["log2_range_errors"]["mse"]) == document["quantized_tensors"]
    real, noise = (row["range_error"]["entropy"]["median"] for row in document["rows"][:2])
    assert real < noise


def test_the_kl_is_that_of_float64() -> None:
    one, other = torch.randn(2, 6, 5, dtype=torch.float64)
    p, q = one.softmax(-1), other.softmax(-1)
    bench: Any = SimpleNamespace(teacher=SimpleNamespace(probe={"logits": one}), logits=[one[:4], one[4:]])
    expected = (p * (p / q).log()).sum(-1).mean()
    assert Bench.divergence(bench, [other[:4], other[4:]]) == pytest.approx(float(expected))


def test_mct_without_its_interpreter_is_refused(network: Network, tmp_path: Path) -> None:
    described = save_network(network, tmp_path / "network.json")
    with pytest.raises(SystemExit, match="--mct-python"):
        make_samples(described, tmp_path / "mct.npz", SourceOptions("mct", 0))
    assert asdict(SourceOptions("mct", 0))["mct_iterations"] == 0
