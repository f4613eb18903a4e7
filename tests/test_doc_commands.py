"""The commands of README, docs and examples are run: on small networks and images, with few steps.

What can't be run here is listed with the reason. A new command is either of a kind that is run, or has to be listed.
"""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision import models

from tests.converter.digits import DIGITS, quick_conversions
from tests.converter.tails import FLOAT, SIZE, classifier, saved, segmenter
from tests.converter.task_networks import Detector
from tests.pages import COMMANDS, DOCS, ROOT, WITH_COMMANDS, blocks, inline_commands, lines_of, shell_lines
from zscgan_common.exit_codes import MISSED

ON_GPU = "requires TensorRT and an NVIDIA GPU"
NOT_RUN = {
    r"zscgan-convert .*--engine tensorrt\b.*": ON_GPU,
    r"zscgan-convert .*--fp16\b.*": ON_GPU,
    r"zscgan-convert .*--qat\b.*": "takes seconds to import ModelOpt; tests/test_docs.py fine-tunes the digits",
    r"zscgan-build .*--engine tensorrt\b.*": ON_GPU,
    r"zscgan-bench .*\.plan\b.*": ON_GPU,
    r"python examples/deploy_pycuda\.py .*": f"{ON_GPU}; tests/test_deploy_examples.py has doubles of both",
    r"trtexec .*": ON_GPU,
    r"polygraphy convert .*": f"{ON_GPU}; tests/test_other_tools.py runs its data loader",
    r"yolo .*": f"requires Ultralytics, and {ON_GPU.removeprefix('requires ')}",
    r"docker .*": "requires Docker; tests/test_dockerfile.py reads the Dockerfile",
    r"(python -m )?pip install .*": "downloads packages; tests/test_wheel.py installs the project",
    r"make .*": "installs the project; tests/test_makefile.py has what it does",
    r"jupyter .*": "opens a browser; tests/test_notebook.py runs the notebook",
    r"zscgan-doctor": "imports every package in a process of its own, as tests/converter/doctor/test_cli.py does",
    r"torchrun .*": "imports PyTorch in each process, as tests/converter/torchrun/test_ranks.py does",
    r"python -m modelopt\.onnx\.quantization .*": "takes seconds to import, as in tests/test_other_tools.py",
    r"python examples/deploy_onnxruntime\.py .*": "tests/test_deploy_examples.py runs it",
    r"python examples/digits/train\.py .*": "trains for a minute; tests/test_examples.py does so for an epoch",
    r"python docs/pictures/draw\.py .*": "tests/test_docs.py draws the pictures",
    r"python benchmarks/.*": "measures for minutes, most of them on data that is not in the repository",
    r"python -m (tf2onnx|torch\.distributed)\..*": "another project's, on the reader's own file",
    r"zscgan-\S+ .*\b(MODEL|FILE).*": "a form: the words in capitals are the reader's",
}
"""Commands -> why they are not run; a test that is named does run the like."""

DETECTED = 32
"""Side of the detector's input; ``SIZE`` is that of the other ONNX files."""
ON_A_CHECKPOINT = [
    *("mine.pth", "--arch", "mine.py:build"),
    *("--input-shape", "3x32x32", "--mean", "0.5", "--std", "0.25"),
]
SMALL_NAME = "squeezenet1_1"
"""A classifier of torchvision that is quick to export."""
STAND_INS = {
    "resnet18": [SMALL_NAME, "--input-shape", "3x64x64"],
    "resnet18.pth": ON_A_CHECKPOINT,
    "resnet18-f37072fd.pth": ON_A_CHECKPOINT,
    "model.pth": ON_A_CHECKPOINT,
    "$out/digits/model.fp32.onnx": ["resnet18.onnx"],
    "640x640": [f"{DETECTED}x{DETECTED}"],
    "512x512": [f"{SIZE}x{SIZE}"],
    "256": ["36"],
    "224": ["32"],
}
"""Word of a command -> what takes its place."""
QUICK = {
    "zscgan-convert": ["--gan-steps", "2", "--guide-steps", "0", "--gan-batch", "8", "--calib-samples", "8"],
    "zscgan-samples": ["--gan-steps", "2", "--guide-steps", "0", "--gan-batch", "8", "--count", "8"],
}

CLASSES = 4
MINE = f"""
from torch import nn


def build():
    body = [nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, {CLASSES}))
"""


def documented() -> list[str]:
    """Each command once, in the order of the pages."""
    script = (ROOT / "examples" / "three_models.sh").read_text(encoding="utf-8")
    commands = [words for page in WITH_COMMANDS for words in (*shell_lines(page), *inline_commands(page))]
    commands += [words for words in lines_of(script) if words[0] in COMMANDS]
    return list(dict.fromkeys(shlex.join(words) for words in commands))


def reason_not_to_run(command: str) -> str | None:
    """The reason of the first pattern that fits; None for what is run."""
    plain = " ".join(shlex.split(command))
    return next((reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, plain)), None)


def shortened(command: str) -> list[str]:
    """The words that are run: small networks and sizes in the place of the page's, and few steps."""
    program, *words = shlex.split(command)
    replaced = [new for word in words for new in STAND_INS.get(word, [word])]
    if "--help" in words or "--help-all" in words:
        return [program, *words]
    return [program, *replaced, *QUICK.get(program, [])]


def runnable() -> dict[str, list[str]]:
    """What is run for each command that is not listed.

    The README's are all run, others only where no other has all of their words.
    """
    found = {command: shortened(command) for command in documented() if reason_not_to_run(command) is None}
    meant = {command: set(words_but_output(words)) for command, words in found.items()}
    of_readme = {shlex.join(words) for words in shell_lines(ROOT / "README.md")}
    return {
        command: words
        for place, (command, words) in enumerate(found.items())
        if command in of_readme
        or not any(
            meant[command] < meant[other] or (meant[command] == meant[other] and before < place)
            for before, other in enumerate(found)
        )
    }


def words_but_output(words: list[str]) -> list[str]:
    return shlex.split(re.sub(r" -o \S+", "", shlex.join(words)))


RUN = runnable()


def save_pictures(folder: Path, count: int, side: int) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def save_networks(folder: Path) -> None:
    """A checkpoint with its code, and ONNX files of the tasks that the pages name."""
    (folder / "mine.py").write_text(MINE + "\n\n" + decoder(), encoding="utf-8")
    torch.save(runpy.run_path(str(folder / "mine.py"))["build"]().state_dict(), folder / "mine.pth")
    torch.onnx.export(
        Detector().eval(), (torch.zeros(2, 3, DETECTED, DETECTED),), folder / "yolov8n.onnx",
        output_names=["scores", "boxes"], dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip
    shutil.copy(folder / "yolov8n.onnx", folder / "mine.onnx")
    saved(folder / "deeplab.onnx", segmenter(), [("logits", FLOAT, ["n", 3, SIZE, SIZE])])
    saved(folder / "resnet18.onnx", classifier(), [("logits", FLOAT, ["n", 5])])
    shutil.copy(folder / "resnet18.onnx", folder / "face.onnx")


def decoder() -> str:
    """The function of the page about tasks."""
    (code,) = (body for body in blocks(DOCS / "tasks.md", "python") if "def decode" in body)
    return code


def save_images(folder: Path) -> None:
    """Images as the pages lay them out: plain, in folders of classes, with boxes and with masks."""
    for number in range(CLASSES):
        save_pictures(folder / "imagenet" / "val" / str(number), 2, 40)
    sides = {"images": DETECTED, "coco/val2017": DETECTED, "faces": SIZE, "cityscapes/images": SIZE}
    for name, side in sides.items():
        save_pictures(folder / name, 2, side)
    (folder / "cityscapes" / "masks").mkdir()
    masks = np.random.default_rng(0).integers(0, 3, (2, SIZE, SIZE), dtype=np.uint8)
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / "cityscapes" / "masks" / f"{number}.png")
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}
    coco = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": DETECTED, "height": DETECTED} for n in range(2)
        ],
        "annotations": [box],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, 4)],
    }
    (folder / "coco" / "annotations").mkdir()
    (folder / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(coco))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything lies that the commands name."""
    folder = tmp_path_factory.mktemp("desk")
    torch.manual_seed(0)
    save_networks(folder)
    save_images(folder)
    shutil.copytree(
        DIGITS, folder / "examples" / "digits", ignore=shutil.ignore_patterns("out", "__pycache__")
    )
    return folder


@pytest.fixture
def downloaded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's cache with weights of the network whose name the pages use."""
    home = tmp_path_factory.mktemp("home")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    url = models.get_model_weights(SMALL_NAME).DEFAULT.url
    torch.save(
        models.get_model(SMALL_NAME).state_dict(), home / "hub" / "checkpoints" / url.rpartition("/")[2]
    )
    monkeypatch.setenv("TORCH_HOME", str(home))


def run(program: str, words: list[str]) -> None:
    """Raise where the command fails in this folder; a missed ``--max-drop`` is a result."""
    with quick_conversions():
        result = CliRunner().invoke(COMMANDS[program], words)
    assert result.exit_code in ({0, MISSED} if "--max-drop" in words else {0}), result.output


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_commands_run(
    command: str, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    program, *words = RUN[command]
    if words[0] == SMALL_NAME:
        request.getfixturevalue("downloaded")
    run(program, words)
    if "--int8" in words:
        (report,) = tmp_path.rglob("report.json")
        onnx.checker.check_model(report.with_name("model.int8.onnx"))


def test_every_command_is_of_a_kind_that_is_run_or_listed() -> None:
    assert [command for command, (program, *_) in RUN.items() if program not in COMMANDS] == []


def test_what_is_listed_is_documented_and_the_tests_that_it_names_exist() -> None:
    plain = [" ".join(shlex.split(command)) for command in documented()]
    assert [p for p in NOT_RUN if not any(re.fullmatch(p, command) for command in plain)] == []
    named = re.findall(r"tests/\S+\.py", " ".join(NOT_RUN.values()))
    assert [name for name in named if not (ROOT / name).is_file()] == []
