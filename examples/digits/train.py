"""Train ``digits_resnet`` on scikit-learn's handwritten digits; write digits.pth and test.npz.

    python examples/digits/train.py [--out DIR]

The data are the 1,797 real 8x8 scans of ``sklearn.datasets.load_digits`` (UCI's optical recognition of
handwritten digits). 500 of them, with every class in its share, are held out of the training and written to
test.npz. The result is the same for the same seed, machine and version of PyTorch.
"""

import argparse
import io
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import DigitsResNet, digits_resnet
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


@dataclass(frozen=True)
class TrainOptions:
    """How to train; the command line reads its defaults from here."""

    out: Path = Path(__file__).parent
    epochs: int = 120
    batch_size: int = 64
    learning_rate: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Images (uint8, N x 8 x 8, 0..255) and labels (int64) for training and for testing."""

    train_images: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]


def load_split(seed: int, held_out: int = 500) -> Split:
    """The digits, scaled from their 17 grey levels to 0..255, split by class."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    return Split(*train_test_split(images, labels, test_size=held_out, stratify=labels, random_state=seed))


def pixel_statistics(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of the pixels in [0, 1], to three digits as they go on a command line."""
    pixels = images / 255
    return round(float(pixels.mean()), 3), round(float(pixels.std()), 3)


def normalise(images: NDArray[np.uint8], mean: float, std: float) -> Tensor:
    """Float32 inputs (N, 1, 8, 8): ``(pixel / 255 - mean) / std``."""
    return ((torch.from_numpy(images).float() / 255 - mean) / std).unsqueeze(1)


def augment(x: Tensor, black: float, generator: torch.Generator) -> Tensor:
    """Every image moved by up to one pixel, turned by up to 10 degrees and scaled by up to 10 %.

    ``black`` is the normalised value of a pixel that comes in from outside.
    """

    def uniform(size: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * size

    angle, scale = uniform(math.radians(10)), 1 + uniform(0.1)
    # affine_grid's unit is half an image: one pixel of eight is 2/8.
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), uniform(2 / 8)], dim=1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), uniform(2 / 8)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    # grid_sample pads with zeros, so black has to be zero meanwhile.
    return F.grid_sample(x - black, grid, align_corners=False) + black


def train(x: Tensor, y: Tensor, black: float, options: TrainOptions) -> DigitsResNet:
    """The trained network in eval mode: SGD with a one-cycle learning rate, labels smoothed by 0.1."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = digits_resnet()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(x) // options.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, epochs=options.epochs, steps_per_epoch=steps
    )
    for _ in range(options.epochs):
        order = torch.randperm(len(x), generator=generator)[: steps * options.batch_size]
        for index in order.reshape(steps, options.batch_size):
            logits = model(augment(x[index], black, generator))
            loss = F.cross_entropy(logits, y[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy_percent(model: DigitsResNet, x: Tensor, y: Tensor) -> float:
    """Share of the images whose largest logit is the label's, in percent."""
    return 100 * float((model(x).argmax(dim=1) == y).double().mean())


def save_bytes(path: Path, content: bytes) -> None:
    """Write under another name first, so that ``path`` is never half written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def save_outputs(out: Path, model: DigitsResNet, split: Split) -> None:
    """``digits.pth`` (state_dict) and ``test.npz`` (images, labels) in the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    # Into memory first: torch.save(file) would put the file's temporary name into the archive.
    weights, data = io.BytesIO(), io.BytesIO()
    torch.save(model.state_dict(), weights)
    np.savez_compressed(data, images=split.test_images, labels=split.test_labels)
    save_bytes(out / "digits.pth", weights.getvalue())
    save_bytes(out / "test.npz", data.getvalue())


def parse_options() -> TrainOptions:
    defaults = TrainOptions()
    parser = argparse.ArgumentParser(description="Train the digits example.")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder for digits.pth and test.npz")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the split and of the training")
    return TrainOptions(**vars(parser.parse_args()))


def main() -> None:
    options = parse_options()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in another order round otherwise, and the network is too small to gain

    split = load_split(options.seed)
    mean, std = pixel_statistics(split.train_images)
    print(f"train {len(split.train_images)} images, test {len(split.test_images)}; --mean {mean} --std {std}")

    start = time.perf_counter()
    x, y = normalise(split.train_images, mean, std), torch.from_numpy(split.train_labels)
    model = train(x, y, black=(0 - mean) / std, options=options)
    seconds = time.perf_counter() - start

    x, y = normalise(split.test_images, mean, std), torch.from_numpy(split.test_labels)
    save_outputs(options.out, model, split)
    print(f"accuracy {accuracy_percent(model, x, y):.1f} % on the test images after {seconds:.0f} s")
    print(f"wrote {options.out / 'digits.pth'} and {options.out / 'test.npz'}")


if __name__ == "__main__":
    main()
