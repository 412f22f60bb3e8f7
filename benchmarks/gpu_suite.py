"""Proves loraprof on a GPU: one command, restartable part by part, every result kept as JSON.

    python benchmarks/gpu_suite.py --out gpu-results                  # everything that is not finished yet
    python benchmarks/gpu_suite.py --out gpu-results --budget 600s    # the most valuable parts first, ends in time
    python benchmarks/gpu_suite.py --out gpu-results --parts 'llama*,selftest' --again
    python benchmarks/gpu_suite.py --out rehearsal --device cpu --small   # the same way through, shrunken, no GPU

Each part runs in a process of its own, at most eight minutes; one that fails is reported and the rest goes on. At the
end, and with ``--summary`` alone, the results are printed as Markdown and written to OUT/summary.md: the table for the
README and every acceptance limit, met, missed or not measured. OUT/recordings holds small recordings without paths and
names, ready for profiles/recordings.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.parts import PARTS, Part  # noqa: E402
from benchmarks.gpu.results import SIZES, Options, Size, load_results  # noqa: E402
from benchmarks.gpu.runner import run_parts, work  # noqa: E402
from benchmarks.gpu.summary import summary  # noqa: E402
from loraprof.cli.quantities import parse_duration_ns  # noqa: E402
from loraprof.errors import UsageError  # noqa: E402


def chosen(text: str | None) -> list[Part]:
    """Parts by name or pattern. Raises UsageError for one that fits none."""
    if text is None:
        return list(PARTS)
    patterns = [word.strip() for word in text.split(",")]
    for pattern in patterns:
        if not any(fnmatch(part.name, pattern) for part in PARTS):
            raise UsageError(f"no part {pattern!r}: {', '.join(part.name for part in PARTS)}")
    return [part for part in PARTS if any(fnmatch(part.name, pattern) for pattern in patterns)]


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", help="names or patterns, separated by commas; default: all")
    parser.add_argument("--again", action="store_true", help="run finished parts again")
    parser.add_argument("--budget", help="600s: most valuable parts first, at reduced size")
    parser.add_argument("--small", action="store_true", help="shrunken workloads: a rehearsal")
    parser.add_argument("--summary", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--list", action="store_true", help="the parts and what they measure")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = parse(words)
    if given.list:
        print("\n".join(f"{part.name:26} {part.what}" for part in PARTS))
        return 0
    size: Size = "small" if given.small else "short" if given.budget else "full"
    options = Options(device=given.device, size=given.size or size, folder=str(given.out.absolute()))
    if given.worker:
        return 0 if work(chosen(given.worker)[0], options).status == "ok" else 1
    try:
        parts = chosen(given.parts)
        budget_s = parse_duration_ns(given.budget) / 1e9 if given.budget else None
    except UsageError as error:
        print(f"gpu_suite: {error.message}", file=sys.stderr)
        return 2
    if not given.summary:
        run_parts(parts, options, again=given.again, budget_s=budget_s, say=say)
    results = {name: one for name, one in load_results(options.out).items() if one.device == options.device}
    if not results:
        print(f"gpu_suite: {given.out} holds no results of {options.device}", file=sys.stderr)
        return 2
    text = summary(results)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    say(f"wrote {given.out / 'summary.md'}" + _recordings(options.out))
    return 0


def _recordings(out: Path) -> str:
    found = sorted(path.name for path in (out / "recordings").glob("*.loraprof"))
    return f"; {len(found)} recordings in {os.path.relpath(out / 'recordings')}" if found else ""


def say(text: str) -> None:
    print(f"gpu_suite: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the part in flight ends too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
