"""Each row of docs/checkpoints.md with a file made here: read as PyTorch's own network computes, or refused."""

import copy
import json
import pickle
import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm
from torch.nn.utils.parametrizations import weight_norm
from torchvision import models

from converter.errors import LoadError
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from tests.converter.load.test_model import CODE, saved, trained

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[3] / "docs" / "checkpoints.md"
State = dict[str, Tensor]
IMAGENET = {"input_shape": (3, 64, 64), "preset": "imagenet"}
SMALL = {"input_shape": (3, 8, 8), "preset": "unit"}


def marked(network: nn.Module) -> nn.Module:
    """``network`` in eval mode, its batch norms and biases no longer what they were made with."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return network.eval()


@cache
def shufflenet() -> nn.Module:
    torch.manual_seed(0)
    return marked(models.shufflenet_v2_x0_5(num_classes=7))


@cache
def resnet() -> nn.Module:
    torch.manual_seed(1)
    return marked(models.resnet18(num_classes=7))


def weights(network: nn.Module | None = None) -> State:
    return dict((network or shufflenet()).state_dict())


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def of_zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


@dataclass(frozen=True)
class Form:
    """A form of checkpoint: ``make`` writes it and gives the path and the network that is meant."""

    make: Callable[[Path], tuple[Path, nn.Module]]
    options: Mapping[str, Any] = field(default_factory=lambda: IMAGENET)
    note: str = ""


def of_object(
    make: Callable[[], object], network: Callable[[], nn.Module] = shufflenet, note: str = ""
) -> Form:
    return Form(lambda folder: (saved(make(), folder / "net.ckpt"), network()), note=note)


def nested(folder: Path) -> tuple[Path, nn.Module]:
    """All of the row's forms hold the same network; two are looked at here."""
    pair = saved((weights(), 3), folder / "pair.pth")
    assert_same(load_model(ModelOptions(str(pair), **IMAGENET)), shufflenet())
    optimizer = torch.optim.SGD([torch.ones(3, requires_grad=True)], 0.1).state_dict()
    content = {"run": {"model": {"state_dict": weights()}}, "optimizer": optimizer, "epoch": 3}
    return saved(content, folder / "net.pth"), shufflenet()


def lightning() -> dict[str, object]:
    beside = {
        "criterion.weight": torch.rand(7),
        "loss_fn.perceptual.conv.weight": torch.rand(4, 3, 3, 3),
        "train_acc.confmat": torch.zeros(7, 7),
        "metrics.tp": torch.zeros(7),
        "temperature": torch.tensor(1.0),
    }
    return {
        "state_dict": behind("model.", weights()) | beside,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(8, 8)}}, "param_groups": []}],
        "pytorch-lightning_version": "2.5.0",
    }


def lightning_ema() -> dict[str, object]:
    averaged = behind("ema_model.module.", weights()) | {"ema_model.n_averaged": torch.tensor(7)}
    return {"state_dict": behind("model._orig_mod.", of_zeros(weights())) | averaged}


def of_numpy() -> dict[str, object]:
    return {"state_dict": {name: value.numpy() for name, value in weights().items()}, "epoch": 3}


def body_and_head(body: str, head: str) -> Callable[[], State]:
    def state() -> State:
        own = weights(resnet())
        tail = {name: own.pop(name) for name in ("fc.weight", "fc.bias")}
        return behind(body, own) | {name.replace("fc", head): value for name, value in tail.items()}

    return state


def mmengine() -> dict[str, object]:
    raw = {"steps": torch.tensor(7)} | behind("module.", of_zeros(weights()))
    return {
        "meta": {"mmengine_version": "0.10.0"},
        "state_dict": weights(),
        "ema_state_dict": raw,
        "message_hub": {},
    }


class HandWritten(nn.Module):
    """fastai's cnn_learner written by hand: maximum, then mean; batch norm, Linear, ReLU, batch norm, Linear."""

    def __init__(self) -> None:
        super().__init__()
        body = resnet()
        self.body = nn.Sequential(*list(body.children())[:-2])
        self.bn1, self.linear1 = nn.BatchNorm1d(1024), nn.Linear(1024, 16, bias=False)
        self.bn2, self.linear2 = nn.BatchNorm1d(16), nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = torch.cat([x.flatten(2).max(2).values, x.flatten(2).mean(2)], 1)
        return self.linear2(self.bn2(torch.relu(self.linear1(self.bn1(x)))))


@cache
def fastai() -> nn.Module:
    torch.manual_seed(2)
    return marked(HandWritten())


def of_fastai() -> dict[str, object]:
    numbers = {"body": "0", "bn1": "1.2", "linear1": "1.4", "bn2": "1.6", "linear2": "1.8"}
    state = {
        re.sub(r"^\w+", lambda found: numbers[found[0]], name, count=1): value
        for name, value in weights(fastai()).items()
    }
    return {"model": state, "opt": {"state": [], "hypers": []}}


def deepspeed(folder: Path) -> tuple[Path, nn.Module]:
    (folder / "latest").write_text("global_step7")
    (folder / "global_step7").mkdir()
    content = {"module": behind("module.", weights()), "optimizer": None, "ds_version": "0.15"}
    saved(content, folder / "global_step7" / "mp_rank_00_model_states.pt")
    return folder, shufflenet()


def accelerate(folder: Path) -> tuple[Path, nn.Module]:
    save_file(weights(), folder / "model.safetensors")
    saved({"state": {}, "param_groups": []}, folder / "optimizer.bin")
    saved({}, folder / "training_args.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({}))
    return folder, shufflenet()


def one_file(folder: Path) -> tuple[Path, nn.Module]:
    saved(weights(), folder / "best.pth")
    (folder / "log.txt").write_text("loss 0.1")
    return folder, shufflenet()


# Known networks that were changed


def resnet_with(**modules: nn.Module) -> Callable[[], nn.Module]:
    """torchvision's ResNet-18 of 7 classes with modules replaced, the same at each call."""

    @cache
    def build() -> nn.Module:
        torch.manual_seed(5)
        network = models.resnet18(num_classes=7)
        for name, module in modules.items():
            setattr(network, name, module)
        return marked(network)

    return build


def of_network(network: Callable[[], nn.Module], note: str = "", **options: Any) -> Form:
    def make(folder: Path) -> tuple[Path, nn.Module]:
        return saved(weights(network()), folder / "net.pth"), network()

    return Form(make, IMAGENET | options, note)


def of_timm(name: str, **given: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        torch.manual_seed(6)
        return marked(timm.create_model(name, **given))

    return cache(build)


def deep(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


class Layers(nn.Module):
    """A body, and layers beside it."""

    def __init__(self, body: nn.Module, *widths: int) -> None:
        super().__init__()
        self.body = body
        self.fc1, self.fc2 = nn.Linear(widths[0], widths[1]), nn.Linear(widths[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = x.mean((2, 3)) if x.dim() == 4 else x
        return self.fc2(torch.relu(self.fc1(x)))


def stages() -> State:
    """A ResNet for CIFAR under the names of a well-known collection."""
    parts = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}

    def renamed(name: str) -> str:
        if (found := re.fullmatch(r"layer(\d)\.(\d)\.(conv1|bn1|conv2|bn2)\.(.+)", name)) is not None:
            return f"conv{int(found[1]) + 1}_x.{found[2]}.residual_function.{parts[found[3]]}.{found[4]}"
        name = re.sub(r"^layer(\d)", lambda found: f"conv{int(found[1]) + 1}_x", name)
        name = name.replace("downsample", "shortcut")
        return re.sub(r"^(conv|bn)1\.", lambda found: f"conv1.{'01'[found[1] == 'bn']}.", name)

    return {renamed(name): value for name, value in weights(FOR_CIFAR()).items()}


FOR_CIFAR = resnet_with(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False), maxpool=nn.Identity())


@cache
def vgg() -> nn.Module:
    torch.manual_seed(7)
    network = models.vgg11_bn(init_weights=False)
    network.avgpool, network.classifier = nn.Identity(), nn.Linear(512, 10)
    return marked(network)


@cache
def in_parts() -> nn.Module:
    network = resnet_with(fc=weight_norm(nn.Linear(512, 3)))()
    prune.l1_unstructured(network.conv1, "weight", 0.5)
    spectral_norm(network.layer1[0].conv1)
    network.eval()
    with torch.no_grad():  # without, the weights carry gradients and the network can't be copied
        network(torch.zeros(1, 3, 32, 32))
    return network


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.Module()
        self.normalize.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.normalize.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1))
        self.model = resnet()

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.normalize.mean) / self.normalize.std)


def twins(*, named: bool) -> dict[str, object]:
    """Of two networks of timm that differ in their normalisation's epsilon alone."""
    arguments = {"model": "tf_mobilenetv3_small_075.in1k"} if named else {}
    return {"state_dict": weights(TWIN()), "args": Namespace(**arguments, lr=0.1), "epoch": 3}


TWIN = of_timm("tf_mobilenetv3_small_075", num_classes=3)


# Networks that are described


def timm_folder(folder: Path) -> tuple[Path, nn.Module]:
    import timm

    torch.manual_seed(3)
    network = marked(timm.create_model("test_resnet", num_classes=3, in_chans=1))
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": ["ant", "bee", "cow"],
        "pretrained_cfg": {"input_size": [1, 48, 48], "mean": [0.4], "std": [0.2], "crop_pct": 0.9},
    }
    (folder / "config.json").write_text(json.dumps(config))
    saved(weights(network), folder / "pytorch_model.bin")
    return folder, network


class Logits(nn.Module):
    """A classifier of transformers, which returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def transformers_network(kind: str, **given: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(4)
        config = getattr(transformers, f"{kind}Config")(id2label={0: "ant", 1: "bee", 2: "cow"}, **given)
        return marked(getattr(transformers, f"{kind}ForImageClassification")(config))


TRANSFORMERS = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "ViT": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    | {"image_size": 32, "patch_size": 8},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
}
PROCESSOR = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "size": {"height": 32, "width": 32},
}


def transformers_folder(folder: Path, kind: str = "ResNet", **saving: Any) -> tuple[Path, nn.Module]:
    network = transformers_network(kind, **TRANSFORMERS[kind])
    network.save_pretrained(folder, **saving)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder, Logits(network)


def file_beside_config(folder: Path) -> tuple[Path, nn.Module]:
    _, network = transformers_folder(folder, "RegNet")
    return folder / "model.safetensors", network


def sharded(folder: Path) -> tuple[Path, nn.Module]:
    _, network = transformers_folder(folder)
    state = weights(network.network)
    names = sorted(state)
    (folder / "model.safetensors").unlink()
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, folder / file)
    places = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder, network


# Networks that are named, and graphs


def with_arch(folder: Path) -> tuple[Path, nn.Module]:
    (folder / "nets.py").write_text(CODE)
    network = trained()
    return saved(weights(network) | {"extra.weight": torch.rand(3)}, folder / "net.pth"), network


def pickled(folder: Path) -> tuple[Path, nn.Module]:
    return saved({"model": trained()}, folder / "net.pth"), trained()


def onnx_folder(folder: Path) -> tuple[Path, nn.Module]:
    import onnx

    from calibrators.data.input_spec import InputSpec
    from converter.graph.capture import onnx_from_model

    onnx.save(onnx_from_model(trained(), InputSpec((3, 8, 8))), folder / "model.onnx")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "resnet", "architectures": ["ResNetModel"]})
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder, trained()


def torchscript(folder: Path) -> tuple[Path, nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(trained(), torch.rand(2, 3, 8, 8)).save(folder / "net.pt")
    return folder / "net.pt", trained()


def exported(folder: Path) -> tuple[Path, nn.Module]:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(trained(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2", trained()


RECOGNISED = {
    "state_dict: `torch.save(model.state_dict(), …)` or `.safetensors`": of_object(weights),
    'state_dict in a dictionary, list or tuple, also in a nested one: `{"model": {"state_dict": …}}`, '
    "`(state_dict, epoch)`": Form(nested),
    "names prefixed with `module.`, `_orig_mod.` (DDP, `torch.compile`), in any order, also nested": of_object(
        lambda: behind("_orig_mod.module.model._orig_mod.", weights())
    ),
    "names with one prefix, such as `model.`, `net.` or `backbone.`": of_object(
        lambda: behind("net.backbone.", weights())
    ),
    "state_dict of NumPy arrays": of_object(of_numpy),
    "averaged weights (EMA) next to plain ones: timm's `state_dict_ema`, `model_ema`, `ema`": of_object(
        lambda: {"state_dict": of_zeros(weights()), "state_dict_ema": weights()},
        note=r"took the averaged \(EMA\) weights, entry 'state_dict_ema'",
    ),
    "PyTorch's `AveragedModel` (SWA)": of_object(
        lambda: dict(torch.optim.swa_utils.AveragedModel(shufflenet()).state_dict())
    ),
    "Lightning's `.ckpt`, with `criterion.*`, `loss.*` or metrics next to the network": of_object(
        lightning,
        note=r"network under model. and skipped what is beside it, 5 tensors: criterion.\*, loss_fn.\*, train_acc.\*",
    ),
    "Lightning's `.ckpt` with `ema_model.*` next to `model.*`": of_object(
        lightning_ema,
        note=r"took the network under ema_model. \(averaged weights\) and skipped what is beside it.*: model.\*",
    ),
    "body and head under their own names: `backbone.*` and `fc.*`": of_object(
        body_and_head("backbone.", "fc"), resnet, note=r"recognised torchvision's resnet18 with 7 classes"
    ),
    "MMPretrain: `backbone.*` and `head.fc.*` of a ResNet": of_object(
        lambda: {"meta": {"epoch": 3}, "state_dict": body_and_head("backbone.", "head.fc")()}, resnet
    ),
    "MMEngine's checkpoint with `ema_state_dict`": of_object(mmengine),
    "fastai's `learn.save`, `cnn_learner` on a ResNet": of_object(
        of_fastai, fastai, note="the maximum and the mean of each channel, BatchNorm, Linear 1024→16, ReLU"
    ),
    "DeepSpeed: the folder with `latest`, or `mp_rank_00_model_states.pt`": Form(deepspeed),
    "accelerate's or Trainer's folder, with `optimizer.bin` and others next to the weights": Form(accelerate),
    "a folder with exactly one checkpoint": Form(one_file),
    "torchvision or timm body, any number of classes": of_network(of_timm("test_resnet", num_classes=5)),
    "head of several layers (`fc`, `classifier`, `head`, …), Sequential or named": of_network(
        resnet_with(fc=deep(512)), "head by the shapes: Linear 512→8, BatchNorm, ReLU, Linear 8→3"
    ),
    "head named `last_linear`, `linear`, …": of_object(body_and_head("", "last_linear"), resnet),
    "no head (backbone, `num_classes=0`)": of_network(
        of_timm("test_resnet", num_classes=0), "the network's outputs are the features"
    ),
    "body and layers side by side: `backbone.*`, `fc1.*`, `fc2.*`": of_network(
        cache(lambda: marked(Layers(resnet_with(fc=nn.Identity())(), 512, 8))),
        "Linear 512→8, ReLU, Linear 8→3",
    ),
    "only the `features` of a torchvision network, plus a head": of_network(
        cache(lambda: marked(Layers(models.mobilenet_v2().features, 1280, 8))), "torchvision's mobilenet_v2"
    ),
    "`nn.Sequential(*children()[:-1])` plus a head": of_network(
        cache(
            lambda: marked(
                nn.Sequential(
                    nn.Sequential(*list(models.resnet18().children())[:-1]), nn.Flatten(), deep(512)
                )
            )
        )
    ),
    "fastai's ResNet, weights only": of_object(lambda: of_fastai()["model"], fastai),
    "grey, 4 or n channels, also with a bias": of_network(
        resnet_with(conv1=nn.Conv2d(1, 64, 7, 2, 3)), input_shape=(1, 64, 64)
    ),
    "ResNet for CIFAR (3x3 stem; also with `shortcut` and `linear`, or stages `conv2_x` to `conv5_x`)": of_object(
        stages, FOR_CIFAR
    ),
    "VGG for CIFAR, with one Linear": of_network(vgg, input_shape=(3, 32, 32)),
    "vision transformer of another image size": of_network(
        of_timm("test_vit", num_classes=3, img_size=96), input_shape=(3, 96, 96)
    ),
    "weight norm, spectral norm, pruning": of_network(
        in_parts, "put weights together that the file has in parts"
    ),
    "its own normalisation layer: `normalize.mean`, `normalize.std`": Form(
        lambda folder: (saved(weights(Normalised()), folder / "net.pth"), Normalised().eval()),
        {"input_shape": (3, 64, 64)},
        "mean 0.4,0.5,0.6, std 0.2,0.3,0.4",
    ),
    "several architectures of equal shapes, one of which the file names": of_object(
        lambda: twins(named=True),
        TWIN,
        "timm's tf_mobilenetv3_small_075 with 3 classes, which the file names",
    ),
    "timm's folder: `config.json` with `architecture`, `model.safetensors` or `pytorch_model.bin`": Form(
        timm_folder, {}, "mean 0.4, std 0.2 from config.json"
    ),
    "transformers' folder: `config.json`, `model.safetensors` or `pytorch_model.bin`": Form(
        transformers_folder, {}, "mean 0.4,0.5,0.6, std 0.2,0.25,0.3 from preprocessor_config.json"
    ),
    "the file with the weights, with timm's or transformers' `config.json` next to it": Form(
        file_beside_config, {}, "built RegNetForImageClassification of transformers"
    ),
    "weights in several files, with `model.safetensors.index.json`": Form(sharded, {}),
    "weights of a custom network": Form(
        with_arch,
        SMALL | {"arch": "{folder}/nets.py:Tiny"},
        "skipped what .*Tiny lacks, 1 of the tensors: extra.weight",
    ),
    "a whole pickled network": Form(pickled, SMALL | {"trust_pickle": True}),
    "ONNX, also in a folder with `preprocessor_config.json`": Form(
        onnx_folder, {}, "from preprocessor_config.json"
    ),
    "TorchScript": Form(torchscript, SMALL),
    "exported program (`.pt2`)": Form(exported, SMALL),
}


def assert_same(teacher: Teacher, network: nn.Module) -> None:
    x = torch.randn(2, *teacher.spec.shape)
    with torch.no_grad():
        ours, theirs = teacher.module(x), network(x)
    # The same float32 sums, in another order where a head or the attention is written anew.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def loaded(path: Path, given: Mapping[str, Any]) -> Teacher:
    options = {k: v.format(folder=path.parent) if isinstance(v, str) else v for k, v in given.items()}
    return load_model(ModelOptions(str(path), **options))


@pytest.mark.parametrize("row", RECOGNISED)
def test_what_is_recognised(row: str, tmp_path: Path) -> None:
    form = RECOGNISED[row]
    (tmp_path / "mine").mkdir()
    path, network = form.make(tmp_path / "mine")
    teacher = loaded(path, form.options)
    assert_same(teacher, copy.deepcopy(network))
    assert teacher.name == ("mine" if path.is_dir() else path.stem)
    assert any(re.search(form.note, note) for note in (*teacher.notes, ""))


# What is refused


def of_names(*names: str) -> Callable[[Path], Path]:
    state = {name: torch.rand(8, 8) for name in names}
    return lambda folder: saved(state, folder / "net.pth")


def of_bytes(name: str, content: bytes = b"\x08\x01" * 40) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def of_files(*names: str, **contents: object) -> Callable[[Path], Path]:
    """A folder with files that hold nothing, and such with an object as JSON."""

    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\0" * 64)
        for name, content in contents.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return make


def fastai_export(folder: Path) -> Path:
    fake = ModuleType("fastai.learner")
    fake.Learner = type("Learner", (), {"__module__": "fastai.learner"})  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastai", ModuleType("fastai"))
        patch.setitem(sys.modules, "fastai.learner", fake)
        return saved(fake.Learner(), folder / "export.pkl")


def several_heads(folder: Path) -> Path:
    body = {name: value for name, value in weights(resnet()).items() if not name.startswith("fc.")}
    heads = {"age.weight": torch.rand(5, 512), "sex.weight": torch.rand(2, 512)}
    return saved(behind("backbone.", body) | heads, folder / "net.pth")


def several(folder: Path) -> Path:
    for name in ("epoch1.pth", "epoch2.pth"):
        saved(weights(), folder / name)
    return folder


def only_inside(folder: Path) -> Path:
    (folder / "checkpoint-500").mkdir()
    accelerate(folder / "checkpoint-500")
    return folder


def shard_missing(folder: Path) -> Path:
    sharded(folder)
    (folder / "model-2-of-2.safetensors").unlink()
    return folder


def config_of_another(folder: Path) -> Path:
    transformers_folder(folder)
    config = json.loads((folder / "config.json").read_text()) | {"hidden_sizes": [8, 24]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def own_code(folder: Path) -> Path:
    accelerate(folder)
    config = {"architectures": ["MyNet"], "model_type": "mine", "auto_map": {"AutoModel": "mine.MyNet"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def of_bert(folder: Path) -> Path:
    accelerate(folder)
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def optimizer_alone(folder: Path) -> Path:
    optimizer = torch.optim.Adam([torch.ones(3, requires_grad=True)])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    return saved(optimizer.state_dict(), folder / "net.pth")


Refusal = tuple[Callable[[Path], Path], str]
REFUSED: dict[str, tuple[Refusal, ...]] = {
    "MMPretrain's ResNet with a deep stem (V1c, V1d)": (
        (of_names("backbone.stem.0.conv.weight", "backbone.layer1.0.conv1.weight"), "deep stem.*--arch"),
    ),
    "fastai's `learn.export`": (
        (fastai_export, r"whole Learner of fastai.*learn.save\('weights', with_opt=False"),
    ),
    "PyTorch's distributed checkpoint (`.distcp`)": (
        (of_files(".metadata", "__0_0.distcp"), "distributed checkpoint of PyTorch.*dcp_to_torch"),
    ),
    "a folder with several checkpoints": (
        (several, r"holds 2 checkpoints \(epoch1.pth, epoch2.pth\); type one"),
    ),
    "a folder without weights": (
        (of_files("log.txt"), "is a folder without weights: it holds log.txt; expected model.safetensors"),
        (only_inside, "there are weights in .*checkpoint-500: type that"),
    ),
    "only an optimizer's state": ((optimizer_alone, "holds the state of an optimizer and no weights"),),
    "several heads on one body": (
        (several_heads, "Its body fits, but the head can't be rebuilt: age gives 5 values and sex takes 512"),
    ),
    "several architectures of equal shapes (timm's `tf_efficientnet_b0`, `efficientnet_b0`)": (
        (
            lambda folder: saved(twins(named=False), folder / "net.pth"),
            "timm:mobilenetv3_small_075, timm:tf_mobilenetv3_small_075; say which: --arch timm:",
        ),
    ),
    "networks with custom names (`cifar10_resnet20`), other widths": (
        (
            lambda folder: saved(weights(models.mobilenet_v2(width_mult=0.25)), folder / "net.pth"),
            "has the names and shapes of these .* --arch file.py:callable",
        ),
    ),
    "weights in several files of which one is missing": (
        (shard_missing, "lacks 1 of the 2 files that share the weights: model-2-of-2.safetensors"),
    ),
    "a `config.json` of another network": (
        (
            config_of_another,
            r"don't fit the ResNetForImageClassification of .*of another shape.*another network",
        ),
    ),
    "a `config.json` that requires custom code (`auto_map`)": ((own_code, r"needs code that isn't part of"),),
    "a folder or weights of a language model": (
        (
            of_names("model.embed_tokens.weight", "lm_head.weight"),
            "network of text, with an embedding of tokens",
        ),
        (
            of_files(
                "model.safetensors", config={"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
            ),
            r"is of LlamaForCausalLM \(llama\), a network of text",
        ),
        (
            of_bert,
            "is of BertModel, whose input is input_ids; expected a network whose only input is an image",
        ),
    ),
    "an adapter (LoRA)": (
        (of_names("base.q.lora_A.weight", "base.q.lora_B.weight"), r"an adapter \(LoRA\).*merge_and_unload"),
        (of_files("adapter_model.safetensors", adapter_config={}), r"an adapter \(LoRA\).*merge_and_unload"),
    ),
    "a network for diffusion": (
        (
            of_names("down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"),
            "network for diffusion",
        ),
        (of_files("unet/x.bin", model_index={}), "pipeline for diffusion"),
    ),
    "GGUF": ((of_bytes("net.gguf", b"GGUF\3" + b"\0" * 64), "is a GGUF file"),),
    "Keras: `.h5`, `.keras`": (
        (of_bytes("net.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64), r"HDF5 file \(Keras\?\).*tf2onnx"),
        (of_bytes("net.keras"), "network of Keras"),
    ),
    "TensorFlow: `.pb`, a SavedModel folder": (
        (of_bytes("net.pb"), "graph of TensorFlow.*tf2onnx"),
        (of_files("saved_model.pb", "variables/variables.index"), "SavedModel of TensorFlow.*tf2onnx"),
    ),
    "TensorFlow Lite": ((of_bytes("net.tflite", b"\x1c\0\0\0TFL3" + b"\0" * 64), "TensorFlow Lite file"),),
    "OpenVINO's folder": ((of_files("net.xml", "net.bin"), "network of OpenVINO"),),
    "PaddlePaddle": (
        (of_files("inference.pdmodel", "inference.pdiparams"), "PaddlePaddle.*paddle2onnx"),
        (of_bytes("net.pdparams"), "PaddlePaddle.*paddle2onnx"),
    ),
    "Core ML": ((of_bytes("net.mlmodel"), "Core ML"), (of_files("Manifest.json"), "Core ML")),
    "TensorRT's plan": (
        (of_bytes("net.engine"), "plan of TensorRT"),
        (of_bytes("net.bin", b"ftrt" + b"\0" * 64), "plan of TensorRT"),
    ),
}


@pytest.mark.parametrize(
    ("row", "number"), [(row, i) for row, cases in REFUSED.items() for i in range(len(cases))]
)
def test_what_is_refused(row: str, number: int, tmp_path: Path) -> None:
    make, message = REFUSED[row][number]
    path = make(tmp_path)
    with pytest.raises(LoadError, match=message):
        load_model(ModelOptions(str(path), **IMAGENET))


def test_the_page_has_each_form() -> None:
    rows = re.findall(r"^\| (.+?) \| (.*?) ?\| .*\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    forms = [(form, cell) for form, cell in rows if form not in ("form", "---")]
    assert [form for form, cell in forms if not cell.startswith("no")] == list(RECOGNISED)
    assert [form for form, cell in forms if cell.startswith("no")] == list(REFUSED)
