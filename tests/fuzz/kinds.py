"""Every kind of file that the program reads from a user: a whole one, how it may be damaged, and how it is read."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import click
import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.data.truths import truths_from_path
from calibrators.ranges.cache_file import ranges_from_cache, save_cache
from calibrators.ranges.ranges import Ranges, load_ranges, save_ranges
from calibrators.tensorrt.cache_with_json import CacheHeader, trusted_ranges
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.resume import restore_checkpoint, save_checkpoint
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator, load_generator, save_generator
from calibrators.zscgan.successive import new_ensemble, train_ensemble
from converter.errors import ArchitectureError, ConversionError, OptionsError
from converter.load.input_choice import choose_input
from converter.load.input_spec import Origin
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.load.published import published_in
from converter.report.document import save_report
from converter.report.html.__main__ import command as page
from converter.workspace import SAMPLES
from engines.bench.open import open_engines
from engines.errors import EngineError
from engines.onnx_passes.file import load_onnx
from engines.onnx_passes.float16 import half_from_onnx
from engines.onnxruntime.engine import OnnxRuntimeEngine, build, int8_kernels
from engines.options import BenchOptions
from engines.tensorrt.build_log import build_log
from engines.tensorrt.engine import PlanEngine, engine_of_plan, is_plan, version_of_plan
from engines.tensorrt.inspector import layers_from_json
from engines.tensorrt.timing_cache import attach_timing_cache
from tests.converter.load.test_model import trained
from tests.converter.report.html.reports import bare_report, full_report
from tests.engines.networks import Net, small_network
from tests.fuzz import mutations as m

SPEC = InputSpec((3, 8, 8), (0.5,), (0.5,))
TINY = "tests.converter.load.test_model:Tiny"
CPU = torch.device("cpu")
GAN = ZSCGANOptions(steps=2, batch=8, latent=4, width=4, samples_per_class=1, least_steps=1)


@dataclass(frozen=True)
class Kind:
    """``make`` writes a whole file into a folder and gives its path, ``read`` reads it to the end.

    ``mutations`` are those of its structure, beside which ``mutations.ANY`` apply.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutations: tuple[m.Mutation, ...] = ()


def mutated(kind: Kind, whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The name of a mutation and what it makes of ``whole``; half of them are of the structure, if there are any."""
    structural = bool(kind.mutations) and rng.random() < 0.5
    mutation = rng.choice(kind.mutations if structural else (*m.ANY, m.head))
    return mutation.__name__, mutation(whole, rng)


def _saved(path: Path, content: Any, **how: bool) -> Path:
    torch.save(content, path, **how)
    return path


def _network(path: Path, arch: str | None = None, **options: bool) -> object:
    return load_model(ModelOptions(str(path), arch=arch, input_shape=(3, 8, 8), preset="unit", **options))


def _recognised(path: Path) -> object:
    """The whole file fits no torchvision architecture either."""
    with suppress(ArchitectureError):
        return _network(path)
    return None


def _nested(folder: Path) -> Path:
    """A checkpoint of a training: EMA weights, optimizer, numbers."""
    network = trained()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    content = {"model": network.state_dict(), "model_ema": network.state_dict(), "epoch": 3,
               "optimizer": optimizer.state_dict()}  # fmt: skip
    return _saved(folder / "net.pth", content)


def _safetensors(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(dict(trained().state_dict()), folder / "net.safetensors", {"format": "pt"})
    return folder / "net.safetensors"


def _numpy_state(folder: Path) -> Path:
    return _saved(folder / "net.pth", {name: value.numpy() for name, value in trained().state_dict().items()})


def _model_config(folder: Path) -> Path:
    config = {
        "architecture": "resnet10t",
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_classes": 2,
        "label_names": ["a", "b"],
        "id2label": {"0": "a", "1": "b"},
        "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0.5], "std": [0.5], "crop_pct": 0.9},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def _processor_config(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "resnet", "architectures": ["ResNetModel"]}')
    size = {"shortest_edge": 10, "height": 8, "width": 8}
    processor = {"size": size, "crop_size": size, "do_center_crop": True, "do_normalize": True, "rescale_factor": 0.1,
                 "image_mean": [0.5], "image_std": [0.5], "image_processor_type": "EfficientNet"}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder / "preprocessor_config.json"


def _read_configs(path: Path) -> object:
    """What they say; the network itself is left out, which a damaged size would make too large for any memory."""
    found = published_in(path.parent)
    options = ModelOptions("net.pth", input_shape=(3, 8, 8))
    with suppress(OptionsError):
        choose_input(options, Origin(published=found))
    return found


def _shard_index(folder: Path) -> Path:
    from safetensors.torch import save_file

    state = trained().state_dict()
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(state))}
    for file in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def _torchscript(folder: Path) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(trained(), torch.rand(2, 3, 8, 8)).save(folder / "net.pt")
    return folder / "net.pt"


def _exported(folder: Path) -> Path:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(trained(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


def _generator(folder: Path) -> Path:
    torch.manual_seed(0)
    ensemble = Ensemble(Generator(GeneratorConfig(SPEC, 4, latent=4, width=4)) for _ in range(2))
    return save_generator(TrainedGenerator(ensemble, "abc", ((0, 0.5, 0.25),), 2.5), folder / "generator.pt")


def _read_generator(path: Path) -> object:
    loaded = load_generator(path, fingerprint="abc", spec=SPEC, device=CPU)
    "{:.1f}".format(loaded.seconds)  # noqa: UP032
    for step, kl, label in loaded.history:
        "{:d} {:.4f} {:.4f}".format(step, kl, label)  # noqa: UP032
    return list(SyntheticBatches(loaded.generator, 8, 4, seed=0))


@cache
def _teacher() -> nn.Module:
    return trained().requires_grad_(False)


def _training(folder: Path) -> Path:
    state = new_ensemble(SPEC, 5, GAN, CPU)

    def stop(_: object) -> None:
        raise InterruptedError

    try:
        train_ensemble(_teacher(), SPEC, 5, GAN, state=state, on_step=stop)
    except InterruptedError:
        save_checkpoint(state, folder / "training.ckpt", "key")
    return folder / "training.ckpt"


def _read_training(path: Path) -> object:
    state = new_ensemble(SPEC, 5, GAN, CPU)
    restore_checkpoint(state, path, "key")
    return train_ensemble(_teacher(), SPEC, 5, GAN, state=state)


RANGES = Ranges({"input": 2.64, "layer1: relu": 0.1, "fc": 7.0}, "entropy", 512, 7, "zscgan", "f" * 64)


def _cache(folder: Path) -> Path:
    return save_cache(RANGES, folder / "calibration.cache", version=101601)


def _cache_of_pair(folder: Path) -> Path:
    save_ranges(RANGES, folder / "calibration.json")
    return _cache(folder)


def _read_cache(path: Path) -> object:
    return ranges_from_cache(path, fingerprint="f" * 64).selected(RANGES.amax)


def _read_cache_of_pair(path: Path) -> object:
    _read_cache(path)
    return trusted_ranges(path, "f" * 64, CacheHeader("EntropyCalibration2", 101601))


def _json_of_pair(folder: Path) -> Path:
    _cache_of_pair(folder)
    return folder / "calibration.json"


def _read_json_of_pair(path: Path) -> object:
    load_ranges(path, fingerprint="f" * 64, algorithm="entropy").selected(RANGES.amax)
    return trusted_ranges(path.with_suffix(".cache"), "f" * 64, CacheHeader("EntropyCalibration2", 101601))


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def _npz(folder: Path, *, compressed: bool = False) -> Path:
    save = np.savez_compressed if compressed else np.savez
    save(folder / "images.npz", images=_pixels(), labels=np.arange(6) % 5)
    return folder / "images.npz"


def _read_images(path: Path, *, labels: bool = True) -> object:
    return list(
        images_from_path(
            path, SPEC, batch_size=2, classes=5, limit=5, require_labels=labels, resize=8, crop=8
        )
    )


def _picture(folder: Path, *, suffix: str, mode: str = "RGB") -> Path:
    path = folder / f"one.{suffix}"
    Image.fromarray(_pixels().reshape(16, 24, 3)).convert(mode).save(path)
    return path


def _read_picture(path: Path) -> object:
    return _read_images(path.parent, labels=False)


def _labels(folder: Path) -> Path:
    for index, pixels in enumerate(_pixels()):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    text = "file,label\n" + "".join(f"{index}.png,{index % 5}\n" for index in range(6))
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def _annotations(folder: Path) -> Path:
    """Boxes on two images as COCO has them."""
    for index in range(2):
        Image.fromarray(_pixels()[index]).save(folder / f"{index}.png")
    box = {"image_id": 7, "category_id": 3, "bbox": [1, 2.5, 3, 4], "iscrowd": 0}
    document = {
        "images": [{"id": 7, "file_name": "0.png"}, {"id": 9, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [box, {**box, "image_id": 9, "iscrowd": 1}],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json"


def _mask(folder: Path) -> Path:
    Image.fromarray(_pixels()[0]).save(folder / "0.jpg")
    (folder / "masks").mkdir()
    Image.fromarray(_pixels()[1, :, :, 0] % 4).save(folder / "masks" / "0.png")
    return folder / "masks" / "0.png"


def _read_truths(folder: Path, kind: Literal["boxes", "mask"]) -> object:
    truths = truths_from_path(folder, kind, classes=2 if kind == "boxes" else 4)
    return [truths.on_input(name, 6, 5) for name in truths]


def _onnx(folder: Path, *, quantized: bool = False, beside: bool = False) -> Path:
    net = Net()
    model = small_network() if quantized else net.model(net.node("Relu", "input"))
    if beside:
        onnx.save(
            model, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0
        )
    else:
        onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def _data_beside(folder: Path) -> Path:
    _onnx(folder, quantized=True, beside=True)
    return folder / "net.bin"


def _read_onnx(path: Path) -> object:
    """As zscgan-build and zscgan-bench read it; each part is reached, whatever the one before says."""
    path = path.with_suffix(".onnx")
    every_part(
        partial(_run_onnx, path),
        lambda: build(path, path.with_name("engine")),
        lambda: int8_kernels(path),
        lambda: half_from_onnx(load_onnx(path)),
        lambda: _bench(path),
    )
    return None


def _run_onnx(path: Path) -> object:
    with OnnxRuntimeEngine(path, threads=1) as engine:
        if np.prod(engine.input_shape) > 10_000:
            return None
        return engine.run(np.zeros((1, *engine.input_shape), np.float32))


def _bench(path: Path) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        open_engines([path], "onnxruntime", BenchOptions(threads=1), lambda _: None, stack)


def every_part(*parts: Callable[[], object]) -> None:
    """Call all, then raise the first error, one that isn't of the package before those that are."""
    errors: list[Exception] = []
    for part in parts:
        try:
            part()
        except Exception as error:  # noqa: BLE001, PERF203 - all are raised
            errors.append(error)
    errors.sort(key=lambda error: isinstance(error, EngineError))
    if errors:
        raise errors[0]


def _plan(folder: Path) -> Path:
    from tests.tensorrt_double.runtime import plan_of

    (folder / "net.plan").write_bytes(plan_of(small_network()))
    return folder / "net.plan"


def _read_plan(path: Path) -> object:
    """The double refuses whatever isn't a whole plan of its own, as TensorRT does."""
    from tests.tensorrt_double.memory import HostDevice
    from tests.tensorrt_double.runtime import Runtime, runtime_double

    class Strict(Runtime):
        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            try:
                return super().deserialize_cuda_engine(serialized_engine)
            except Exception:  # noqa: BLE001
                return None

    content = path.read_bytes()
    assert is_plan(path) or (engine_of_plan(content), version_of_plan(content)) == (None, None)
    double = runtime_double()
    double.Runtime = partial(Strict, double)
    with (
        mock.patch("engines.tensorrt.library.load_tensorrt", return_value=double),
        PlanEngine(path, device=HostDevice()) as engine,
    ):
        return engine.run(np.zeros((1, *engine.input_shape), np.float32))


def _timing_cache(folder: Path) -> Path:
    from tests.tensorrt_double.builder import ITimingCache, tensorrt_double

    (folder / "timing.cache").write_bytes(
        memoryview(ITimingCache(tensorrt_double("10.16.1").place, 3).serialize())
    )
    return folder / "timing.cache"


def _read_timing_cache(path: Path) -> object:
    import logging

    from tests.tensorrt_double.builder import tensorrt_double

    trt = tensorrt_double("10.16.1")
    with build_log(trt, logging.getLogger("tests.fuzz"), None) as log:
        return attach_timing_cache(trt.Builder(log).create_builder_config(), path, log)


def _report(folder: Path) -> Path:
    """A report.json with all that it can have."""
    return save_report(full_report(), folder / "report.json")


def _picture_of_report(folder: Path) -> Path:
    save_report(bare_report(), folder / "report.json")
    return _picture(folder, suffix="png").rename(folder / SAMPLES)


def _read_report(path: Path) -> object:
    """As ``python -m converter.report.html`` reads it; its errors are those of click."""
    try:
        page.main([str(path.with_name("report.json"))], standalone_mode=False)
    except click.ClickException as error:
        raise ConversionError(str(error)) from error
    return None


def _inspector(folder: Path) -> Path:
    """A layer as TensorRT's inspector describes it."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 4, 8, 8], "Format/Datatype": "Int8"}
    layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor],
             "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 144}, "TacticName": "sm80_xmma_i8i8",
             "Metadata": "[ONNX Layer: /conv/Conv]"}  # fmt: skip
    (folder / "layers.json").write_text(json.dumps({"Layers": [layer, layer], "Bindings": ["input"]}))
    return folder / "layers.json"


def _read_inspector(path: Path) -> object:
    layers = layers_from_json(path.read_text(errors="replace"))
    return layers.summary(), layers.to_json(int8=True)


KINDS: dict[str, Kind] = {
    "state_dict": Kind(
        lambda f: _saved(f / "net.pth", trained().state_dict()), partial(_network, arch=TINY), m.ZIP
    ),
    "state_dict, recognised": Kind(
        lambda f: _saved(f / "net.pth", trained().state_dict()), _recognised, m.ZIP
    ),
    "state_dict, old format": Kind(
        lambda f: _saved(f / "net.th", trained().state_dict(), _use_new_zipfile_serialization=False),
        partial(_network, arch=TINY),
    ),
    "checkpoint": Kind(_nested, partial(_network, arch=TINY), m.ZIP),
    "whole network": Kind(
        lambda f: _saved(f / "net.pth", trained()), partial(_network, trust_pickle=True), m.ZIP
    ),
    "safetensors": Kind(_safetensors, partial(_network, arch=TINY), (m.safetensors_header,)),
    "state_dict of NumPy arrays": Kind(_numpy_state, partial(_network, arch=TINY), m.ZIP),
    "config.json": Kind(_model_config, _read_configs, m.JSON),
    "preprocessor_config.json": Kind(_processor_config, _read_configs, m.JSON),
    "index of shards": Kind(_shard_index, lambda path: _network(path.parent, TINY), m.JSON),
    "TorchScript": Kind(_torchscript, _network, m.ZIP),
    "pt2": Kind(_exported, _network, m.ZIP),
    "generator.pt": Kind(_generator, _read_generator, m.ZIP),
    "training checkpoint": Kind(_training, _read_training, m.ZIP),
    "calibration.json": Kind(_json_of_pair, _read_json_of_pair, m.JSON),
    "calibration cache": Kind(_cache, _read_cache),
    "calibration cache of a pair": Kind(_cache_of_pair, _read_cache_of_pair),
    "npz": Kind(_npz, _read_images, (*m.ZIP, m.arrays, m.array_header)),
    "npz, compressed": Kind(partial(_npz, compressed=True), _read_images, (*m.ZIP, m.arrays, m.array_header)),
    "labels.csv": Kind(_labels, lambda path: _read_images(path.parent), (m.table,)),
    "annotations.json": Kind(_annotations, lambda path: _read_truths(path.parent, "boxes"), m.JSON),
    "mask": Kind(_mask, lambda path: _read_truths(path.parents[1], "mask")),
    **{
        suffix: Kind(partial(_picture, suffix=suffix), _read_picture)
        for suffix in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm")
    },
    "png with a palette": Kind(partial(_picture, suffix="png", mode="P"), _read_picture),
    "ONNX": Kind(_onnx, _read_onnx, (m.message,)),
    "ONNX, Q/DQ": Kind(partial(_onnx, quantized=True), _read_onnx, (m.message,)),
    "ONNX, weights beside": Kind(partial(_onnx, quantized=True, beside=True), _read_onnx, (m.message,)),
    "weights beside ONNX": Kind(_data_beside, _read_onnx),
    "plan": Kind(_plan, _read_plan),
    "timing cache": Kind(_timing_cache, _read_timing_cache),
    "report.json": Kind(_report, _read_report, m.JSON),
    "samples.png of a report": Kind(_picture_of_report, _read_report),
    "inspector": Kind(_inspector, _read_inspector, m.JSON),
}
