"""How good the predicted disagreement and drop are: predicted from samples alone, and measured on real images.

Each network is quantized in many ways (8 to 4 bits, weights or activations or both, all calibrators, ranges from
samples and from noise), simulated. The measured disagreement is that on images that didn't calibrate: test images of
CIFAR-10 and of the digits, since on training images it is far smaller (0 of 1,000 for ResNet-20 in INT8), and for
EfficientNet-Lite0 those of DATA, some of which it may have been trained on (it is right on about 87 %). The margins
that ``converter.trust.prediction`` assumes are fitted to FP32 logits of the same images, and the figures of a
network are those with the margins of the *other* networks. The rest of the method was chosen while looking at these
networks: that the second class alone counts (against the best 2, 4, 9 or all others), that half of the samples are
mixed (against other shares), and the factors of the interval. What is fitted of the margins is their width as a
multiple of ``sureness`` of procedural images, and their slope. DATA is the folder of ``conversion.py``.

    python benchmarks/prediction.py DATA --json FILE --plot FILE

Those that ``train_cifar.py`` trains to ``models/cifar10-NAME.pth`` in DATA are predicted as a conversion does it. The
first two had a part in ``SURENESS_POWER`` and in the factors of the interval, the others in nothing.

    python benchmarks/prediction.py DATA --network vgg,densenet,mobilenet,vit,convnext
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from quantizations import (
    OUTSIDE,
    SYMMETRIC,
    Case,
    Measured,
    Subject,
    labels,
    measured,
    of_procedural,
    subject_from_data,
)

from converter.trust.prediction import WIDTH, Margins, Prediction, Z, predict_from_logits, sureness
from converter.trust.task.classes import Classes

NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0", "digits")
SLOPES = np.linspace(0.05, 5.0, 100)


@dataclass(frozen=True)
class Row:
    """One quantization of one network, in percent and points.

    ``predicted`` is with the margins of the other networks; ``raw`` is the disagreement on the samples themselves.
    ``images`` is how many inputs the measured values come from.
    """

    network: str
    case: str
    int8: bool
    disagreement: float
    drop: float
    raw: float
    predicted: Prediction
    images: int

    @property
    def disagreement_met(self) -> bool:
        """Whether the predicted interval and that of the measured disagreement (Wilson's) have a value in common."""
        n, share = self.images, self.disagreement / 100
        middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5 / (1 + Z**2 / n)
        return self.predicted.low <= 100 * (middle + half) and 100 * (middle - half) <= self.predicted.high

    @property
    def drop_met(self) -> bool:
        """The same for the drop: of n images those that change are at most won or lost, each for itself."""
        half = 100 * Z * (self.disagreement / 100 / self.images) ** 0.5
        return self.predicted.drop_low <= self.drop + half and self.drop - half <= self.predicted.drop_high


def chosen_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of each row."""
    return np.array(Classes(logits.shape[1]).answers((logits,)))


def percent_equal(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """How many entries are equal, in percent."""
    return 100.0 * float(np.mean(a == b))


@dataclass(frozen=True)
class Fitted:
    """What is assumed of the margins of real images; ``width`` is a multiple of ``sureness`` of procedural ones."""

    width: float = WIDTH
    slope: float = Margins.slope


@dataclass(frozen=True)
class Logits:
    """All logits of one network: in FP32, and of each quantization; with the labels of its images."""

    name: str
    y: NDArray[np.int64]
    fp32: Measured
    cases: dict[Case, Measured]
    procedural: NDArray[np.float32]
    """Of FP32, of procedural images."""

    def fitted(self) -> Fitted:
        """What its real images have: twice their median margin, and the slope of greatest likelihood."""
        chosen = chosen_classes(self.fp32.images)
        second, first = np.sort(self.fp32.images.astype(np.float64), axis=1)[:, -2:].T
        found = (first - second) / self.fp32.samples.std(axis=1).mean()
        right = np.where(chosen == self.y, 1.0, -1.0)
        likelihood = [-np.log1p(np.exp(-2 * slope * found * right)).sum() for slope in SLOPES]
        width = 2 * float(np.median(found)) / sureness(self.procedural)
        return Fitted(width, float(SLOPES[int(np.argmax(likelihood))]))

    def rows(self, fitted: Fitted) -> list[Row]:
        """Measured and predicted, a row for each quantization."""
        margins = Margins(fitted.width * sureness(self.procedural), fitted.slope)
        fp32 = chosen_classes(self.fp32.images)
        found = []
        for case, quantized in self.cases.items():
            said = chosen_classes(quantized.images)
            raw = percent_equal(chosen_classes(self.fp32.samples), chosen_classes(quantized.samples))
            found.append(
                Row(
                    self.name,
                    str(case),
                    case.bits == 8 and case.what == "WA",
                    100 - percent_equal(fp32, said),
                    percent_equal(fp32, self.y) - percent_equal(said, self.y),
                    100 - raw,
                    predict_from_logits(self.fp32.samples, quantized.samples, margins),
                    len(fp32),
                )
            )
        return found


def logits_of(subject: Subject, folder: Path) -> Logits:
    """All logits of a network, with a line for each quantization as it is done."""
    (_, fp32), *others = (progress(subject.name, *pair) for pair in measured(subject, folder))
    return Logits(
        subject.name,
        labels(subject.images),
        fp32,
        {case: found for case, found in others if case is not None},
        of_procedural(subject, folder),
    )


def progress(name: str, case: Case | None, found: Measured) -> tuple[Case | None, Measured]:
    """The same pair, after it was told."""
    print(f"{name} {case or 'FP32'}", flush=True)
    return case, found


def fitted_to_others(name: str, fitted: dict[str, Fitted]) -> Fitted:
    """The medians over all networks but ``name``; those of a conversion where it had no part in these."""
    if name in OUTSIDE:
        return Fitted()
    inside = {other: found for other, found in fitted.items() if other not in OUTSIDE}
    others = [found for other, found in inside.items() if other != name] or list(fitted.values())
    return Fitted(median(found.width for found in others), median(found.slope for found in others))


def ranks(values: Iterable[float]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.array(list(values)), return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return middle[inverse]


def spearman(a: Iterable[float], b: Iterable[float]) -> float:
    """Spearman's rank correlation; 0 where all values of one side are equal."""
    first, second = ranks(a), ranks(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def figures(rows: list[Row]) -> dict[str, float]:
    """How good the predictions of these rows are; ``raw_*`` the same of the disagreement on the samples themselves."""
    truth = [row.disagreement for row in rows]
    guesses = {
        "": [row.predicted.disagreement for row in rows],
        "raw_": [row.raw for row in rows],
    }
    found: dict[str, float] = {"combinations": len(rows)}
    for prefix, guess in guesses.items():
        errors = np.abs(np.array(guess) - np.array(truth))
        found[f"{prefix}spearman"] = spearman(guess, truth)
        found[f"{prefix}median_error"] = float(np.median(errors))
        found[f"{prefix}largest_error"] = float(errors.max())
    found["interval_met"] = 100 * float(np.mean([row.disagreement_met for row in rows]))
    found["drop_median_error"] = float(np.median([abs(row.predicted.drop - row.drop) for row in rows]))
    found["drop_interval_met"] = 100 * float(np.mean([row.drop_met for row in rows]))
    return found


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of all networks, of those for photographs, and of each; and of these the ones of W8A8."""
    found: dict[str, list[Row]] = {}
    networks = list(dict.fromkeys(row.network for row in rows))
    members = {"all": networks, "photographs": [name for name in networks if name in SYMMETRIC]}
    for name, some in {**members, **{name: [name] for name in networks}}.items():
        found[name] = [row for row in rows if row.network in some]
        found[f"{name} W8A8"] = [row for row in found[name] if row.int8]
    return {name: some for name, some in found.items() if some}


def tables(rows: list[Row]) -> str:
    """Markdown: a line for each quantization, then one for each group."""
    lines = [
        "| network | quantization | disagreement % | predicted % | on samples % | drop | predicted drop |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        p = row.predicted
        lines.append(
            f"| {row.network} | {row.case} | {row.disagreement:.2f} | {p.disagreement:.2f} ({p.low:.2f}..{p.high:.2f}) "
            f"| {row.raw:.2f} | {row.drop:.2f} | {p.drop:.2f} ({p.drop_low:.2f}..{p.drop_high:.2f}) |"
        )
    lines += [
        "",
        "| group | number | Spearman | median / largest error | interval met | drop: median error | interval met "
        "| on samples: Spearman | median error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, some in groups(rows).items():
        f = figures(some)
        lines.append(
            f"| {name} | {f['combinations']:.0f} | {f['spearman']:.3f} | {f['median_error']:.2f} / "
            f"{f['largest_error']:.2f} | {f['interval_met']:.0f} % | {f['drop_median_error']:.2f} | "
            f"{f['drop_interval_met']:.0f} % | {f['raw_spearman']:.3f} | {f['raw_median_error']:.2f} |"
        )
    return "\n".join(lines)


def save_plot(rows: list[Row], path: Path) -> Path:
    """Predicted against measured disagreement with its interval; both axes linear up to 1 % and logarithmic above."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 6), constrained_layout=True)
    for name in dict.fromkeys(row.network for row in rows):
        some = [row for row in rows if row.network == name]
        x, y = [row.disagreement for row in some], [row.predicted.disagreement for row in some]
        below = [max(0.0, row.predicted.disagreement - row.predicted.low) for row in some]
        above = [max(0.0, row.predicted.high - row.predicted.disagreement) for row in some]
        axes.errorbar(x, y, yerr=(below, above), fmt="o", markersize=4, elinewidth=0.5, label=name)
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.5)
    axes.set(xlabel="disagreement measured on real images, %", ylabel="predicted without data, %")
    axes.set(xscale="symlog", yscale="symlog", xlim=(0, 100), ylim=(0, 100))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def document(rows: list[Row], margins: dict[str, Fitted], images: dict[str, int]) -> dict[str, object]:
    """Everything that was found, for ``--json``."""
    return {
        "images": images,
        "margins": {name: asdict(found) for name, found in margins.items()},
        "figures": {name: figures(some) for name, some in groups(rows).items()},
        "rows": [asdict(row) for row in rows],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument(
        "--network", default=",".join(NETWORKS), help="with commas between [default: %(default)s]"
    )
    parser.add_argument(
        "--generators", type=Path, help="folder with NETWORK/generator.pt [default: train them]"
    )
    parser.add_argument("--work", type=Path, help="keep the logits here [default: a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write a picture here (needs matplotlib)")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.network.split(","):
            subject = subject_from_data(name, given.data, given.generators, Path(folder))
            found.append(logits_of(subject, given.work or Path(folder) / "logits"))
    margins = {logits.name: logits.fitted() for logits in found}
    rows = [row for logits in found for row in logits.rows(fitted_to_others(logits.name, margins))]
    for name, some in margins.items():
        print(f"{name}: margins {some}, assumed {fitted_to_others(name, margins)}")
    print(tables(rows))
    if given.json is not None:
        images = {logits.name: len(logits.y) for logits in found}
        given.json.write_text(json.dumps(document(rows, margins, images), indent=2) + "\n")
    if given.plot is not None:
        save_plot(rows, given.plot)


if __name__ == "__main__":
    main()
