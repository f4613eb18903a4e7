"""How good the samples are, as far as the classifier itself can tell."""

from dataclasses import dataclass

import torch
from torch import nn

from calibrators.batches import Batches
from calibrators.zscgan.losses import batch_norm_loss
from calibrators.zscgan.statistics import BatchStatistics, Moments, merged_moments, targets_from_model


@dataclass(frozen=True)
class SampleQuality:
    """Mean KL to the batch-norm statistics, in nats, and how often the classifier gives the wanted label, in
    percent."""

    bn_kl: float
    label_accuracy: float


def sample_quality(teacher: nn.Module, batches: Batches) -> SampleQuality:
    """Quality of all the batches together; a smaller last one is left out, as moments count by batch."""
    parts: dict[str, list[Moments]] = {}
    right = total = 0
    with torch.no_grad(), BatchStatistics(teacher) as statistics:
        for x, labels in batches:
            if total and len(x) < batches.batch_size:
                break
            right += int((teacher(x).argmax(1) == labels).sum())
            total += len(x)
            for name, moments in statistics.moments().items():
                parts.setdefault(name, []).append(moments)
    merged = {name: merged_moments(some) for name, some in parts.items()}
    kl = float(batch_norm_loss(merged, targets_from_model(teacher))) if merged else 0.0
    return SampleQuality(kl, 100.0 * right / max(1, total))
