"""The table and the plot of ``fidelity.py``: medians over the seeds, with the least and the largest."""

from pathlib import Path
from statistics import median
from typing import Any

from calibrators.options import ALGORITHMS

Row = dict[str, Any]
PLOTTED = "entropy"


def by_source(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each source, in the order of the run."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["key"]["source"], []).append(row)
    return grouped


def label(row: Row) -> str:
    """The source, with what was changed of its defaults."""
    key = row["key"]
    changes = [f"{name}={value}" for name, value in key.get("gan", {}).items()]
    if "defaults" in row and row["iterations"] != row["defaults"]["n_iter"]:
        changes.append(f"{row['iterations']} of {row['defaults']['n_iter']} iterations")
    if key["source"] == "zeroq":
        changes.append(f"{row['iterations'][0]} iterations")
    return f"{key['source']} ({', '.join(changes)})" if changes else str(key["source"])


def spread(values: list[float], digits: int) -> str:
    """The median, and behind it the least and the largest value where there are several."""
    text = f"{median(values):.{digits}f}"
    return f"{text} ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else text


def table(document: dict[str, Any]) -> str:
    """Markdown: one line a source."""
    rows = document["rows"]
    evaluations = list(rows[0]["accuracy"])
    header = ["source", "seeds", "inputs", "seconds", "peak MiB", "BN KL"]
    header += [f"range error {name}" for name in ALGORITHMS] + evaluations
    lines = [header, ["---"] * len(header)]
    for some in by_source(rows).values():
        line = [label(some[0]), str(len(some)), str(some[0]["samples"])]
        line += [spread([row["seconds"] for row in some], 0), f"{max(row['peak_mib'] for row in some):.0f}"]
        line.append(spread([row["bn_kl"] for row in some], 3))
        for name in ALGORITHMS:
            figures = [row["range_error"][name] for row in some]
            middle, largest = (median(f[key] for f in figures) for key in ("median", "largest"))
            line.append(f"{middle:.3f} / {largest:.2f}")
        for name in evaluations:
            figures = [row["accuracy"][name] for row in some]
            agreement, kl = (median(f[key] for f in figures) for key in ("agreement", "kl"))
            line.append(f"{spread([f['top1'] for f in figures], 1)} / {agreement:.1f} / {kl:.2g}")
        lines.append(line)
    note = (
        f"{document['network']}: FP32 top-1 {document['fp32_top1']:.1f} % on {document['images']} images; "
        f"{document['quantized_tensors']} quantized activations. Range error: median / largest |log2(amax / true "
        "amax)|. Accuracy: top-1 / agreement with FP32, in percent / KL of the class probabilities from FP32's, in "
        "nats. Medians over the seeds, (least..largest)."
    )
    return "\n".join([note, "", *(f"| {' | '.join(line)} |" for line in lines)])


def save_plot(document: dict[str, Any], path: Path) -> Path:
    """Two panels: the range error of each tensor in the network's order, and top-1 for each quantization."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    evaluations = list(document["rows"][0]["accuracy"])
    grouped = by_source(document["rows"])
    for number, (source, some) in enumerate(grouped.items()):
        tensors = list(some[0]["log2_range_errors"][PLOTTED])
        middle = [median(row["log2_range_errors"][PLOTTED][name] for row in some) for name in tensors]
        left.plot(range(len(tensors)), middle, marker=".", label=source)
        positions = [index + (number - (len(grouped) - 1) / 2) * 0.12 for index in range(len(evaluations))]
        for row in some:
            top1 = [row["accuracy"][name]["top1"] for name in evaluations]
            right.plot(positions, top1, "o", color=f"C{number}", label=source if row is some[0] else None)
    left.axhline(0, color="black", linewidth=0.5)
    left.set(xlabel="quantized activation", ylabel=f"log2(amax / true amax), {PLOTTED}")
    right.axhline(document["fp32_top1"], color="black", linewidth=0.5, linestyle="--")
    right.set(ylabel="top-1, % (dashed: FP32)")
    right.set_xticks(range(len(evaluations)), evaluations)
    left.legend()
    right.legend()
    figure.suptitle(document["network"])
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
