"""How many of the architectures of torchvision and timm are recognised by the names and shapes of their weights.

Each is taken as it is, with 7 classes, with a grey stem, and with a head of two layers. ``right`` is the architecture
itself or one that computes the same; ``named together`` is one of several of equal shapes, all of which are named;
``wrong`` is anything else. Names and shapes are those of the index, which the tests hold against the libraries. Seconds
are processor time, those of the first recognition with the reading of the index. timm isn't imported.

    python benchmarks/recognition.py [--wrong]
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool

from converter.errors import ArchitectureError
from converter.load.bodies.index import Architecture, index
from converter.load.bodies.recognise import recognise
from converter.load.bodies.tree import Node, Shape

Shapes = dict[str, Shape]
OUTCOMES = ("right", "named together", "wrong")


@dataclass(frozen=True)
class Case:
    """An architecture as one kind of file has it."""

    architecture: Architecture
    kind: str
    shapes: Shapes


def shapes_of(tree: Node, prefix: str = "") -> Shapes:
    """Names and shapes of the tensors of ``tree``."""
    found: Shapes = {}
    for name, child in tree.children.items():
        full = f"{prefix}.{name}" if prefix else name
        found |= shapes_of(child, full) if isinstance(child, Node) else {full: child}
    return found


def cases_of(architecture: Architecture) -> Iterator[Case]:
    """The kinds of files of an architecture; without those that its head or stem leaves no place for."""
    plain = shapes_of(architecture.tree)
    yield Case(architecture, "plain", plain)
    head = tuple(f"{path}." for path in architecture.head)
    own = [name for name in plain if name.startswith(head)]
    if own:
        yield Case(architecture, "7 classes", plain | {name: (7, *plain[name][1:]) for name in own})
    stems = [f"{path}.weight" for path in architecture.stem]
    if stems:
        grey = {name: (plain[name][0], 1, *plain[name][2:]) for name in stems}
        yield Case(architecture, "grey stem", plain | grey)
    if len(head) == 1 and f"{head[0]}weight" in plain:
        _, *inputs = plain[f"{head[0]}weight"]
        body = {name: shape for name, shape in plain.items() if name not in own}
        layers = {
            "0.weight": (64, *inputs),
            "0.bias": (64,),
            "3.weight": (7, 64, *inputs[1:]),
            "3.bias": (7,),
        }
        two = {head[0] + name: shape for name, shape in layers.items()}
        yield Case(architecture, "two layers", body | two)


def outcome(case: Case) -> str:
    """``right``, ``named together`` or ``wrong``."""
    name = case.architecture.name
    try:
        fit = recognise(case.shapes)
    except ArchitectureError as error:
        together = "several architectures alike" in str(error)
        named = str(error).partition("things: ")[2].partition(";")[0].split(", ")
        return "named together" if together and name in named else "wrong"
    if fit.architecture.name == name:
        return "right"
    return "named together" if name in fit.others else "wrong"


def is_convolutional(architecture: Architecture) -> bool:
    """Whether the network has no attention, by the names of its tensors and its own."""
    words = ("attn", "qkv", "token", "pos_embed", "mixer", "mlp_tokens", "relative_position")
    if any(word in name.lower() for name in shapes_of(architecture.tree) for word in words):
        return False
    return bool(architecture.stem)


def results_of(architecture: Architecture) -> list[tuple[str, str, float]]:
    """Kind, outcome and seconds of each case of an architecture."""
    results = []
    for case in cases_of(architecture):
        start = time.process_time()
        result = outcome(case)
        results.append((case.kind, result, time.process_time() - start))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wrong", action="store_true", help="name those that are not recognised")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    start = time.process_time()
    outcome(next(cases_of(index().architectures[0])))
    first = time.process_time() - start
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seconds = []
    architectures = index().architectures
    with Pool(arguments.processes) as pool:
        for architecture, results in zip(architectures, pool.imap(results_of, architectures, 8), strict=True):
            library = "torchvision"
            if architecture.of_timm:
                library = "timm, convolutional" if is_convolutional(architecture) else "timm, others"
            for kind, result, duration in results:
                counts[library, kind][result] += 1
                seconds.append(duration)
                if arguments.wrong and result == "wrong":
                    print(f"wrong: {architecture.name}, {kind}")
    assert "timm" not in sys.modules
    for (library, kind), found in counts.items():
        total = sum(found.values())
        shares = ", ".join(f"{found[name]} {name} ({100 * found[name] / total:.1f} %)" for name in OUTCOMES)
        print(f"{library}, {kind}: {total}: {shares}")
    later = sorted(seconds)
    print(
        f"seconds: {first:.2f} the first, then median {later[len(later) // 2]:.3f}, at most {later[-1]:.3f}"
    )


if __name__ == "__main__":
    main()
