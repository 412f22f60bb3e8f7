"""What is left of a run that is ended at a random moment?

``python benchmarks/kills.py [--kills N] [--seed N] [TARGET …]``

Ends N runs of each target (profile of a script and of a workload, compare, sweep, fix, torchrun) by SIGINT to the
group, SIGTERM or SIGKILL (``tests/kills.py``). Prints how many, and how many left a corrupt recording, an orphan, or
a file that outlived the next run.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kills import TARGETS, kill_often


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", default=list(TARGETS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = []
    for name in options.targets:
        with TemporaryDirectory() as folder:
            tally = kill_often(Path(folder), name, options.kills, options.seed)
        print(f"{name}: {tally}", *tally.wrong(), sep="\n    ", flush=True)
        wrong += tally.wrong()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
