"""``python -m tests.fuzz``: a long campaign of damaged files, and what the program takes badly."""

import argparse
import sys
from collections import Counter, defaultdict
from contextlib import suppress

from tests.fuzz.driver import GOOD, Outcome, outcomes
from tests.fuzz.kinds import KINDS


def main() -> None:
    """Print each finding as it comes and a table at the end; exit code 1 with findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=700, help="of each kind [%(default)s]")
    parser.add_argument("--first", type=int, default=0, help="number of the first, for others [%(default)s]")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="this kind alone [all]")
    given = parser.parse_args()
    table: dict[str, Counter[str]] = defaultdict(Counter)

    def told(outcome: Outcome) -> None:
        table[outcome.kind][outcome.how] += 1
        if outcome.how not in GOOD:
            print(
                f"{outcome.kind} {outcome.index}, {outcome.mutation}: {outcome.how}: {outcome.said!r}",
                flush=True,
            )

    numbers = range(given.first, given.first + given.files)
    with suppress(KeyboardInterrupt):  # the table is of those that were read
        outcomes([(kind, number) for kind in given.kind or KINDS for number in numbers], told)
    for kind, counted in table.items():
        print(f"{kind}: " + ", ".join(f"{count} {how}" for how, count in counted.most_common()))
    sys.exit(any(set(counted) - set(GOOD) for counted in table.values()))


if __name__ == "__main__":
    main()
