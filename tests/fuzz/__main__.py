"""``python -m tests.fuzz``: a long campaign."""

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.driver import GOOD, outcomes
from tests.fuzz.kinds import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=700, help="of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    given = parser.parse_args()
    bad = 0
    for kind in given.kind or KINDS:
        start = time.perf_counter()
        found = outcomes([(kind, index) for index in range(given.first, given.first + given.files)])
        print(
            f"{kind}: {dict(Counter(o.how for o in found))} in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        shown = Counter()
        for o in found:
            if o.how not in GOOD:
                bad += 1
                key = (o.how, o.said[:60])
                shown[key] += 1
                if shown[key] <= 2:
                    print(f"  {o.index} {o.mutation}: {o.how} {o.said!r}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
