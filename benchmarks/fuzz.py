"""How many inputs that are nearly right does loraprof survive?

``python benchmarks/fuzz.py --minutes N [--first SEED]``

Traces, recordings, TOML and options with a few things changed (``tests/mutation.py``), each through everything that
reads it, in this process. Prints the number of inputs, and of tracebacks, hangs, inexact sums and unequal JSON, each
with its place and the seed that shows it again (``--seed KIND SEED`` runs one and lets its error through).
"""

import argparse
import random
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mutation import KINDS, Tally, examine, kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--seed", nargs=2, metavar=("KIND", "SEED"), help="this input alone")
    options = parser.parse_args()
    if options.seed:
        kind, seed = options.seed
        with TemporaryDirectory() as folder:
            KINDS[kind](random.Random(f"{kind} {seed}"), Path(folder))
        return 0
    tally, end = Tally(), time.monotonic() + 60 * options.minutes
    for seed, kind in enumerate(kinds(), options.first):
        examine(kind, seed, tally)
        if time.monotonic() > end:
            break
    told = {"inputs": tally.inputs.total(), "read": tally.read, "refused": tally.refused, "wrong": tally.wrong.total()}
    print(", ".join(f"{count:,} {what}" for what, count in told.items()))
    for what, count in tally.wrong.most_common():
        print(f"{count:6,} x {what}    ({tally.seeds[what]})")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MB")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
