"""How long does a command take before it says anything? Process time (user and system), the least of several runs.

    python benchmarks/startup.py [RECORDING.loraprof | TRACE.json.gz] [--runs 10]

Without an argument the built-in CPU workload is recorded first. The commands take turns; compiled bytecode is in place
after a first round that does not count.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.processes import environment, run  # noqa: E402

LORAPROF = ["-m", "loraprof"]
LIMITS_S = {"loraprof --help": 0.25, "loraprof report": 0.5}


def process_time_s(arguments: Sequence[str]) -> float:
    """User plus system time of one run of this interpreter."""
    used = run([sys.executable, *arguments])
    if used.error:
        raise SystemExit(f"{' '.join(arguments)}: {used.error}")
    return used.cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Process time of loraprof's start.")
    parser.add_argument("path", type=Path, nargs="?", help="what `report` reads")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "small.loraprof"
        if options.path is None:
            command = [sys.executable, *LORAPROF, "profile", "tiny-llama-cpu", "--record", str(path), "--quiet"]
            subprocess.run(command, check=True, capture_output=True, env=environment())
        cases = {
            "python -c pass": ["-c", "pass"],
            "python -c 'import numpy'": ["-c", "import numpy"],
            "loraprof --help": [*LORAPROF, "--help"],
            "loraprof explain L2": [*LORAPROF, "explain", "L2"],
            "loraprof report": [*LORAPROF, "report", str(path)],
        }
        rounds = [{what: process_time_s(words) for what, words in cases.items()} for _ in range(options.runs + 1)]
    print("| command | process time, least of " + f"{options.runs} | limit |\n|---|---|---|")
    for what in cases:
        least_s = min(one[what] for one in rounds[1:])
        limit = f"{LIMITS_S[what]:.2f} s" if what in LIMITS_S else ""
        print(f"| `{what}` | {least_s:.3f} s | {limit} |")


if __name__ == "__main__":
    main()
