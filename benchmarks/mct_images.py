"""Images of Sony's Model Compression Toolkit for one classifier; runs on an interpreter that has the package.

``fidelity.py`` runs it: ``mct_images.py WEIGHTS.pt IMAGES.npz SETTINGS``. It imports nothing of this project but
``architectures.py``, so that the package can live in an environment of its own. Everything is left at the
package's defaults but the number of images, its normalisation, and, where asked for, the iterations.
"""

import inspect
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import torch
from model_compression_toolkit.data_generation import (
    ImageNormalizationType,
    get_pytorch_data_generation_config,
    pytorch_data_generation_experimental,
)

CLOSE = 0.01
NORMALIZATIONS = {
    ImageNormalizationType.TORCHVISION: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ImageNormalizationType.KERAS_APPLICATIONS: ((0.5,) * 3, (0.5,) * 3),
}


def normalization_of(mean: list[float], std: list[float]) -> Any:
    """The package's normalisation that is this one; it bounds the images to valid pixels."""
    for name, values in NORMALIZATIONS.items():
        if np.abs(np.array(values) - np.array([mean, std])).max() < CLOSE:
            return name
    raise SystemExit(f"the package has no normalisation with mean {mean} and std {std}")


def defaults() -> dict[str, Any]:
    """What the package does if it isn't told."""
    parameters = inspect.signature(get_pytorch_data_generation_config).parameters
    return {name: parameters[name].default for name in ("n_iter", "data_gen_batch_size")}


def main(weights: Path, output: Path, settings: dict[str, Any]) -> None:
    """Makes the images and writes them with the time that it took."""
    torch.manual_seed(settings["seed"])
    model = getattr(architectures, settings["arch"])()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    given = {"n_iter": settings["iterations"]} if settings["iterations"] else {}
    normalization = normalization_of(settings["mean"], settings["std"])
    config = get_pytorch_data_generation_config(image_normalization_type=normalization, **given)
    started = time.perf_counter()
    images = pytorch_data_generation_experimental(
        model.eval(), settings["images"], tuple(settings["size"]), config
    )
    seconds = time.perf_counter() - started
    x = torch.cat([image.detach().reshape(-1, *image.shape[-3:]).cpu().float() for image in images])
    detail = {
        "seconds": seconds,
        "version": version("model-compression-toolkit"),
        "iterations": config.n_iter,
        "batch": config.data_gen_batch_size,
        "defaults": defaults(),
    }
    np.savez(output, x=x.numpy(), detail=np.array(json.dumps(detail)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
