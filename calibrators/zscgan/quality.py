"""How good the samples are, as far as the classifier itself can tell."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from calibrators.data.batches import Batches, first_inputs
from calibrators.zscgan.batch_norm import BatchStatistics, Moments, targets_from_model
from calibrators.zscgan.layout import fastest_form
from calibrators.zscgan.losses import batch_norm_loss


@dataclass(frozen=True)
class SampleQuality:
    """Mean KL to the batch-norm statistics, in nats, and how often the classifier gives the wanted label, in
    percent."""

    bn_kl: float
    label_accuracy: float


def sample_quality(
    teacher: nn.Module, batches: Batches, on_batch: Callable[[int], None] = lambda _: None
) -> SampleQuality:
    """Quality of all the batches together; a smaller last one is left out, as moments count by batch.

    ``on_batch`` gets the number of inputs done.
    """
    teacher, layout = fastest_form(teacher, tuple(first_inputs(batches, 2).shape[1:]))
    sums: dict[str, Moments] = {}
    count = right = total = 0
    with torch.no_grad():
        for x, labels in batches:
            if count and len(x) < batches.batch_size:
                break
            # Not around the loop: samples that are guided on the way measure the same layers.
            with BatchStatistics(teacher) as statistics:
                logits = teacher(x.contiguous(memory_format=layout))
                found = statistics.moments()
            chosen = logits.argmax(-1)  # of one image, a squeeze leaves a vector
            right += int((chosen == labels).sum())
            total += len(x)
            count += 1
            on_batch(total)
            for name, (mean, variance) in found.items():
                wide = mean.double()  # squares of large means lose digits
                old = sums.get(name, (torch.zeros_like(wide), torch.zeros_like(wide)))
                sums[name] = (old[0] + wide, old[1] + variance.double() + wide * wide)
    moments = {
        name: (mean / count, (square / count - (mean / count) ** 2).clamp_min(0))
        for name, (mean, square) in sums.items()
    }
    kl = float(batch_norm_loss(moments, targets_from_model(teacher))) if moments else 0.0
    return SampleQuality(kl, 100.0 * right / max(1, total))
