"""How good calibration samples are for a quantized network: the generator's, its peers', noise and real images.

``zscgan`` are the generator's alone, ``both`` half of these and half procedural images, as in a conversion. For each
source and seed it reports how far the calibrated ranges are from those of real images (|log2| of the ratio over all
quantized activations: 1 is a factor of two), top-1 and agreement with FP32 on real images with weights and activations
of 8, 6 and 4 bits, and the seconds and the peak memory of making the samples, each in its own process. The true
ranges are those of 512 real images that neither calibrate nor measure; where the images don't suffice for that
(ImageNet: 500), the source ``images`` is the reference itself.

    python benchmarks/fidelity.py DATA --network resnet20 --sources both,images,gaussian --output FOLDER

DATA is the folder of ``conversion.py``. Quantizers stand where the INT8 model has them, the first and last layers
and the signed ranges behind a ReLU included, so 4-bit accuracies are not those of papers that spare these.
Prints one Markdown table; FOLDER/NETWORK gets fidelity.json, fidelity.png and the samples (``--reuse``).
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from conversion import Network
from figures import save_plot, table
from trial import NAMES, SAMPLES, SourceOptions, network_from_data, parts_of, save_network

from calibrators.options import ALGORITHMS, Algorithm
from calibrators.zscgan.options import ZSCGANOptions

SOURCES = ("both", "zscgan", "procedural", "images", "gaussian", "uniform", "mct", "zeroq")
HERE = Path(__file__).parent


def run(script: str, *arguments: str, threads: int) -> float:
    """Runs a script of this folder to its end, its output on stderr; gives its peak memory in MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000"}
    command = [sys.executable, str(HERE / script), *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"failed with status {process.returncode}: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def synthesised(options: SourceOptions, network: Path, folder: Path, *, reuse: bool, threads: int) -> Path:
    """The archive with the samples of one source and seed, made in a process of its own or found."""
    path = folder / f"{options.source}-{options.seed}.npz"
    described = path.with_suffix(".json")
    if reuse and path.exists() and described.exists():
        if json.loads(described.read_text())["key"] == options.key():
            print(f"reusing {path}", file=sys.stderr)
            return path
        print(f"{path} was made with other options; making it anew", file=sys.stderr)
    print(f"making {path.stem}", file=sys.stderr)
    described.unlink(missing_ok=True)
    peak_mib = run("sources.py", str(network), str(path), json.dumps(asdict(options)), threads=threads)
    document = {**json.loads(described.read_text()), "peak_mib": peak_mib, "threads": threads}
    described.write_text(json.dumps(document, indent=2) + "\n")
    return path


def gan_overrides(given: list[str]) -> dict[str, Any]:
    """Fields of ZSCGANOptions from ``key=value``. Raises SystemExit for a key that it doesn't have."""
    defaults = asdict(ZSCGANOptions())
    values = {}
    for item in given:
        key, _, text = item.partition("=")
        if key not in defaults or key == "seed":
            raise SystemExit(
                f"expected --set with one of {', '.join(defaults)} (the seed is --seeds), got {item}"
            )
        kind = type(defaults[key])
        try:
            values[key] = text.lower() in ("true", "1") if kind is bool else kind(text)
        except ValueError as error:
            raise SystemExit(f"expected --set {key}=VALUE of type {kind.__name__}, got {text!r}") from error
    ZSCGANOptions(**values)
    return values


def evaluations_from_text(text: str) -> list[tuple[int, Algorithm]]:
    """``8:entropy,4:mse`` as pairs. Raises SystemExit for what can't be measured."""
    pairs: list[tuple[int, Algorithm]] = []
    for item in text.split(","):
        bits, _, algorithm = item.partition(":")
        if not bits.isdecimal() or not 2 <= int(bits) <= 16 or algorithm not in ALGORITHMS:
            raise SystemExit(f"expected --evaluate BITS:{'|'.join(ALGORITHMS)} with 2 to 16 bits, got {item}")
        if algorithm == "entropy" and bits != "8":
            raise SystemExit(f"expected entropy with 8 bits, which it is made for, got {item}")
        pairs.append((int(bits), algorithm))
    return pairs


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--network", choices=NAMES, default="resnet20")
    parser.add_argument(
        "--sources", default="both,zscgan,procedural,images,gaussian,uniform,zeroq", help="|".join(SOURCES)
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--evaluate", default="8:entropy,8:mse,6:mse,4:mse,4:max", help="BITS:CALIBRATOR,...")
    parser.add_argument("--output", type=Path, required=True, help="folder for samples and figures")
    parser.add_argument("--reuse", action="store_true", help="take samples that an earlier run left there")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="inputs that calibrate (default %(default)s)"
    )
    parser.add_argument(
        "--judged",
        type=int,
        default=0,
        metavar="N",
        help="measure on the last N of the images that no seed calibrates with; 0 (default): on the network's own, 500",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a ZSCGANOptions field"
    )
    parser.add_argument(
        "--input-range",
        choices=("samples", "pixels"),
        default="samples",
        help="range of the input: as the samples have it, or the bounds of a pixel wherever no real images "
        "calibrate (what a conversion without data does)",
    )
    parser.add_argument("--mct-python", help="interpreter with model-compression-toolkit, for the source mct")
    parser.add_argument(
        "--mct-iterations", type=int, default=0, help="0 (default) is the package's own default"
    )
    parser.add_argument("--mct-images", type=int, default=0, help="0 (default) is --samples")
    parser.add_argument("--zeroq-iterations", type=int, default=SourceOptions.zeroq_iterations)
    parser.add_argument(
        "--zeroq-batches", type=int, default=SourceOptions.zeroq_batches, help="of 64 or 32 images"
    )
    parser.add_argument(
        "--zeroq-stop",
        type=float,
        default=SourceOptions.zeroq_stop,
        help="loss of a layer at which ZeroQ's authors stop early (default %(default)s); 0: all iterations",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-plot", action="store_true")
    return parser.parse_args()


def checked_sources(options: argparse.Namespace) -> list[str]:
    """The sources, each with what it needs. Raises SystemExit before any work begins."""
    sources: list[str] = options.sources.split(",")
    if unknown := set(sources) - set(SOURCES):
        raise SystemExit(f"expected --sources of {', '.join(SOURCES)}, got {', '.join(sorted(unknown))}")
    if "mct" in sources and options.mct_python is None:
        raise SystemExit(
            "the source mct needs --mct-python PATH, an interpreter with model-compression-toolkit"
        )
    if not options.no_plot and find_spec("matplotlib") is None:
        raise SystemExit("the plot needs matplotlib: pip install matplotlib, or type --no-plot")
    return sources


def check_judged(options: argparse.Namespace, network: Network) -> None:
    """Raises SystemExit where images would both calibrate and measure."""
    calibrating = (max(map(int, options.seeds.split(","))) + 2) * SAMPLES
    with np.load(network.calib) as archive:
        free = len(archive["labels"]) - calibrating
    if options.judged > max(0, free):
        raise SystemExit(
            f"expected --judged of at most {max(0, free)} with these --seeds, got {options.judged}"
        )


def main() -> None:
    """Makes all samples, measures them, prints the table and writes the rest."""
    options = parsed()
    sources, gan = checked_sources(options), gan_overrides(options.set)
    evaluations = evaluations_from_text(options.evaluate)
    folder = (options.output / options.network).resolve()
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    network = network_from_data(options.network, options.data.resolve(), folder)
    described = save_network(network, folder / "network.json")
    check_judged(options, network)
    common = SourceOptions(
        sources[0],
        0,
        samples=options.samples,
        device=options.device,
        gan=gan,
        zeroq_iterations=options.zeroq_iterations,
        zeroq_batches=options.zeroq_batches,
        zeroq_stop=options.zeroq_stop,
        mct_python=options.mct_python,
        mct_iterations=options.mct_iterations,
        mct_images=options.mct_images,
    )
    paths = []
    for source in sources:
        seeds = [int(seed) for seed in options.seeds.split(",")]
        if source == "images" and parts_of(network) < max(seeds) + 2:
            seeds = seeds[:1]  # all seeds would be the same images
        for seed in seeds:
            one = replace(common, source=source, seed=seed)
            paths.append(synthesised(one, described, samples, reuse=options.reuse, threads=options.threads))
    output = folder / "fidelity.json"
    settings = {
        "samples": [str(path) for path in paths],
        "evaluate": evaluations,
        "input_range": options.input_range,
        "device": options.device,
        "judged": options.judged,
        "output": str(output),
    }
    run("measure.py", str(described), json.dumps(settings), threads=options.threads)
    document = {
        "network": options.network,
        "input_range": options.input_range,
        "cpus": os.cpu_count(),
        **json.loads(output.read_text()),
    }
    output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    if not options.no_plot:
        save_plot(document, folder / "fidelity.png")


if __name__ == "__main__":
    main()
