"""Would a test notice? Small changes to analysis and diagnosis, one at a time, and the tests that run the changed line.

``python benchmarks/mutants.py --map FILE [--count N] [--seed N] [--minutes N]``

Draws N mutants: the edge of a comparison, a sign, an operator, ``and``, ``not``, a number, ``min``. Left out are
annotations, declarations, ``strict=`` and texts: docstrings, messages, formats. The map says which test runs which
line, and for how long; it is recorded where the file is missing, and of test files that changed. A mutant meets the
tests that run its line, those named after its function, the quick ones and those of its room first, then others of
their files, for five seconds; last, the whole reports of ``tests/test_kinds.py``. Tests marked slow are left out. All
tests are loaded once; each mutant is a fork of that process.

Prints killed, late (ended by the limit of time), same (no test fails), unreached and equivalent (``mutants.toml``), and
the changes of all that no test noticed. A test that fails without the mutant too kills nothing.
"""

import argparse
import functools
import importlib
import os
import random
import sys
import tomllib
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder, whose coverage.py is another
os.environ["OMP_NUM_THREADS"] = "1"  # before torch loads

import pytest  # noqa: E402

from benchmarks.mutation.changes import PACKAGES, ROOT, mutants  # noqa: E402
from benchmarks.mutation.lines import OPTIONS, Map, record  # noqa: E402
from benchmarks.mutation.trial import Session, Trial, anew, forked  # noqa: E402

ENOUGH = 0.9
LOADED = ("numpy", "torch", "msgspec", "rich.console", "typer", "hypothesis", "coverage", "xdist", "peft")


def equivalent() -> set[tuple[str, str]]:
    """File and change of mutants that are no change."""
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {(one["file"], one["change"].strip()) for one in listed.get("equivalent", [])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, required=True, help="which tests run which lines")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", default="", help="part of a path: mutants of these files alone")
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in LOADED:
        importlib.import_module(name)
    forked(functools.partial(record, options.map), 1e5)
    every = [one for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for one in mutants(path)]
    every = [one for one in every if options.only in one.file]
    drawn, known = random.Random(options.seed).sample(every, min(options.count, len(every))), equivalent()
    tried = [one for one in drawn if (one.file, one.change.strip()) not in known]
    trial = Trial(Map(options.map), options.minutes)
    for mutant in tried:
        if mutant.loads is not None:
            trial.judge(mutant, anew)
    inside = [one for one in tried if one.loads is None]
    if inside:
        files = {name.partition("::")[0] for one in inside for name in trial.tests.of(one)}
        pytest.main([*OPTIONS, *sorted(files)], plugins=[Session(trial, inside)])
    counts = trial.counts
    noticed = (counts["killed"] + counts["late"]) / max(sum(counts.values()), 1)
    print(f"{len(drawn)} of {len(every):,} mutants, {len(drawn) - len(tried)} of them equivalent: {counts}")
    print(f"{noticed:.1%} of the others noticed")
    return 0 if noticed >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
