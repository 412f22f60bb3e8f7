"""How long does a command take before it says anything? Process time (user and system), the least of several runs.

    python benchmarks/startup.py [RECORDING.loraprof | TRACE.json.gz] [--runs 10]

Without an argument the built-in CPU workload is recorded first. Compiled bytecode is in place after the first run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LORAPROF = ["-m", "loraprof"]


def process_time_s(arguments: list[str]) -> float:
    """User plus system time of one run of this interpreter."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {child.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Process time of loraprof's start.")
    parser.add_argument("path", type=Path, nargs="?", help="what `report` reads")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "small.loraprof"
        if options.path is None:
            command = ["profile", "tiny-llama-cpu", "--record", str(path), "--quiet"]
            subprocess.run([sys.executable, *LORAPROF, *command], check=True, capture_output=True)
        cases = {
            "python -c pass": ["-c", "pass"],
            "python -c 'import numpy'": ["-c", "import numpy"],
            "loraprof --help": [*LORAPROF, "--help"],
            "loraprof explain L2": [*LORAPROF, "explain", "L2"],
            f"loraprof report {path.name}": [*LORAPROF, "report", str(path)],
        }
        for what, arguments in cases.items():
            least = min(process_time_s(arguments) for _ in range(options.runs))
            print(f"{1000 * least:6.0f} ms  {what}", flush=True)


if __name__ == "__main__":
    main()
