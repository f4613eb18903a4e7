"""Synthetic calibration data from nothing but a classifier, in one call."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from calibrators.data.batches import random_pixels
from calibrators.data.input_spec import InputSpec
from calibrators.errors import CalibrationError, GeneratorError
from calibrators.zscgan.batch_norm import batch_norm_layers
from calibrators.zscgan.guidance import guide_for
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import SyntheticBatches
from calibrators.zscgan.successive import EnsembleState, train_ensemble


def batches_from_model(
    model: nn.Module,
    spec: InputSpec,
    samples: int,
    batch_size: int,
    options: ZSCGANOptions,
    *,
    classes: int | None = None,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
) -> SyntheticBatches:
    """Samples of generators that are trained on ``model`` here, on the GPU where PyTorch sees one.

    ``model`` is copied, and left as it is. ``classes`` is found by one forward pass where it is None;
    ``on_step`` gets the steps done and their total. Raises GeneratorError for a model without batch norms or
    a loss that stays NaN, CalibrationError where the model gives no logits.
    """
    if not batch_norm_layers(model):
        raise GeneratorError(
            "expected a model with batch norms that hold running statistics, as samples can't be made without "
            "them, but it has none; give real images instead: batches=images_from_path(...)"
        )
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    if torch.cuda.is_available():
        teacher = teacher.cuda()
    classes = classes or classes_from_model(teacher, spec)
    options = options.for_labels(classes, *spec.shape[1:])

    def report(state: EnsembleState) -> None:
        on_step(state.step, options.steps)

    state = train_ensemble(teacher, spec, classes, options, on_step=report)
    guide = guide_for(teacher, state.ensemble, options)
    batches = SyntheticBatches(state.ensemble, samples, batch_size, options.seed, guide)
    if guide is not None:
        for _ in batches:  # TensorRT asks for them when its own memory is taken
            pass
    return batches


def classes_from_model(model: nn.Module, spec: InputSpec) -> int:
    """Number of logits that ``model`` gives, from two images of random pixels.

    Raises CalibrationError for anything but a tensor of shape (2, classes).
    """
    with torch.no_grad():
        logits = model(random_pixels(spec, 2, 0).to(next(model.parameters()).device))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise CalibrationError(
            f"expected logits of shape (2, classes) for two images, got {got}; wrap the model in a module "
            "whose forward returns the logits alone"
        )
    return logits.shape[1]
