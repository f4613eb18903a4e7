"""Time the entropy search against NVIDIA ModelOpt's on the same histograms, in one process.

The histograms are the activations of a ResNet-18 with random weights on smooth noise, and synthetic
distributions with heavy tails. No data is needed. Prints a table, the speed-up and the largest difference in
bins.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from calibrators.ranges.entropy import entropy_amax
from calibrators.ranges.histogram import Histogram, HistogramCollector

REPEATS = 5


def network_histograms(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Histograms of 2,049 to 4,096 bins: the output of each activation of a random ResNet-18."""
    import torchvision

    torch.manual_seed(seed)
    model = torchvision.models.resnet18(weights=None).eval()
    collectors: dict[str, HistogramCollector] = {}

    def watch(name: str) -> Callable[..., None]:
        collectors[name] = HistogramCollector(name)
        return lambda _module, _inputs, output: collectors[name].collect(output)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Linear):
            module.register_forward_hook(watch(name))
    noise = torch.nn.functional.interpolate(torch.randn(8, 3, 28, 28), scale_factor=8, mode="bilinear")
    with torch.no_grad():
        model(noise)
    for name, collector in collectors.items():
        yield name, collector.histogram().counts.numpy()


def synthetic_histograms(
    seed: int, bins: int = 2048, values: int = 1_000_000
) -> Iterator[tuple[str, np.ndarray]]:
    """Histograms of the size that ModelOpt uses itself."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=values)
    made = {
        "gaussian": normal,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(4 * normal, 0, 6),
        "exponential": rng.exponential(size=values),
        "student t, 4 df": rng.standard_t(4, size=values),
        "student t, 2 df": rng.standard_t(2, size=values),
        "log-normal": rng.lognormal(size=values),
        "few values": rng.normal(size=500),
        "two lumps": np.concatenate([normal, normal[:1000] + 30]),
    }
    for name, x in made.items():
        magnitude = np.abs(x)
        yield name, np.histogram(magnitude, bins=bins, range=(0, magnitude.max()))[0]


def theirs_bins(counts: np.ndarray) -> float:
    """Bins that ModelOpt keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of optional packages
        from modelopt.torch.quantization.calib.histogram import HistogramCalibrator

    calibrator = HistogramCalibrator(torch_hist=False)
    calibrator._calib_hist = counts.astype(np.int64)
    calibrator._calib_bin_edges = np.arange(len(counts) + 1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(calibrator.compute_amax("entropy"))


def ours_bins(counts: np.ndarray) -> float:
    """Bins that this project keeps."""
    return entropy_amax(Histogram.from_counts(torch.from_numpy(counts.astype(np.int64)), 1.0))


def timed(function: Callable[[np.ndarray], float], counts: np.ndarray, repeats: int) -> tuple[float, float]:
    """Result and least time in seconds."""
    best_s, result = float("inf"), 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(counts)
        best_s = min(best_s, time.perf_counter() - start)
    return result, best_s


def compared(name: str, counts: np.ndarray) -> dict[str, float | str]:
    """One row of the table."""
    ours, ours_s = timed(ours_bins, counts, REPEATS)
    theirs, theirs_s = timed(theirs_bins, counts, 1)
    row: dict[str, float | str] = {
        "histogram": name,
        "bins": len(counts),
        "ours_bins": ours,
        "theirs_bins": theirs,
        "ours_ms": ours_s * 1e3,
        "theirs_ms": theirs_s * 1e3,
    }
    print(
        f"{name:<24}{len(counts):>6}{ours:>8.0f}{theirs:>8.0f}{ours_s * 1e3:>10.2f}{theirs_s * 1e3:>11.0f}"
        f"{theirs_s / ours_s:>9.0f}x",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and samples (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    theirs_bins(np.ones(128, np.int64))  # its import is not part of the time

    header = f"{'histogram':<24}{'bins':>6}{'ours':>8}{'theirs':>8}{'ours ms':>10}{'theirs ms':>11}"
    print(f"{header}{'speed-up':>10}")
    histograms = [*synthetic_histograms(options.seed), *network_histograms(options.seed)]
    rows = [compared(name, counts) for name, counts in histograms]
    ratios = [float(row["theirs_ms"]) / float(row["ours_ms"]) for row in rows]
    difference = max(abs(float(row["ours_bins"]) - float(row["theirs_bins"])) for row in rows)
    total = sum(float(row["theirs_ms"]) for row in rows) / sum(float(row["ours_ms"]) for row in rows)
    print(
        f"\n{len(rows)} histograms: {total:.0f} times faster in total "
        f"({min(ratios):.0f} to {max(ratios):.0f}); largest difference {difference:.0f} bins"
    )
    if options.json is not None:
        figures = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": options.threads,
            "seed": options.seed,
            "speedup_total": total,
            "speedup_least": min(ratios),
            "largest_difference_bins": difference,
            "rows": rows,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
