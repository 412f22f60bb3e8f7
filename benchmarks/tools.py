"""The tools that read profiler traces, and what each is asked: where did the time go, over one file.

The floor is what any reader in Python pays: inflate the file (isal), pieces of 2 MB cut between events, decode them
with msgspec into typed objects whose arguments stay raw. It keeps nothing and computes nothing.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FLOOR: Final = """
import sys
import msgspec
from isal import igzip

class Event(msgspec.Struct, gc=False):
    name: str = ""
    ph: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: int | str | None = None
    tid: int | str | None = None
    args: msgspec.Raw = msgspec.Raw()

decode = msgspec.json.Decoder(list[Event]).decode
count, rest, begun = 0, b"", False
with igzip.open(sys.argv[1], "rb") as file:
    while piece := file.read(2 << 20):
        rest += piece
        if not begun:
            start = rest.find(b'"traceEvents"')
            if start < 0:
                continue
            rest, begun = rest[rest.index(b"[", start) + 1:], True
        end = rest.rfind(b"\\n  },") + 4
        if end > 3:
            count += len(decode(b"[" + rest[:end] + b"]"))
            rest = rest[end + 1:]
last = rest.rfind(b"}\\n  ],") + 1
count += len(decode(b"[" + rest[:last] + b"]"))
print(count)
"""
REPORT: Final = """
import sys
from loraprof.cli.app import run
sys.exit(run(["report", sys.argv[1]]))
"""
HTA: Final = """
import sys
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="")
print(analysis.get_temporal_breakdown(visualize=False), analysis.get_gpu_kernel_breakdown(visualize=False))
"""
TENSORBOARD: Final = """
import sys, tempfile
from torch_tb_profiler.profiler.data import RunProfileData
from torch_tb_profiler.profiler.run_generator import RunGenerator
with tempfile.TemporaryDirectory() as cache:
    data = RunProfileData.parse("worker0", 0, sys.argv[1], cache)
    print(RunGenerator("worker0", 0, data).generate_run_profile().overview)
"""
PERFETTO: Final = """
import sys
from perfetto.trace_processor import TraceProcessor
trace = TraceProcessor(trace=sys.argv[1])
query = "select category, count(*) as n, sum(dur) as ns from slice group by category"
print([(row.category, row.n, row.ns) for row in trace.query(query)])
trace.close()
"""
STARTS: Final = "from perfetto.trace_processor import TraceProcessor; TraceProcessor().close()"


@dataclass(frozen=True, slots=True)
class Tool:
    """``package`` is installed in an environment of its own; without one the tool runs in this interpreter's.

    ``check`` runs once after that: perfetto's wheel brings no binary, it downloads one at first use.
    """

    name: str
    script: str
    package: str | None = None
    check: str = "pass"


OURS: Final = Tool("loraprof report", REPORT)
BASE: Final = Tool("floor: inflate and decode", FLOOR)
PEERS: Final = (
    Tool("HolisticTraceAnalysis 0.5.0", HTA, "HolisticTraceAnalysis==0.5.0"),
    Tool("traceinsight 0.6.1", HTA, "traceinsight==0.6.1"),
    Tool("torch-tb-profiler 0.4.3", TENSORBOARD, "torch-tb-profiler==0.4.3"),
    Tool("perfetto trace processor", PERFETTO, "perfetto", STARTS),
)


@dataclass(frozen=True, slots=True)
class Installed:
    tool: Tool
    python: str

    def command(self, path: Path) -> list[str]:
        return [self.python, "-c", self.tool.script, str(path)]


def install(tool: Tool, work: Path) -> Installed | str:
    """The tool's own interpreter, made on first use and kept in ``work``; or one line that says why there is none."""
    if tool.package is None:
        return Installed(tool, sys.executable)
    folder = work / tool.package.split("==")[0]
    python, ready = folder / "bin" / "python", folder / "installed"
    if not ready.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", tool.package]
            subprocess.run(pip, check=True, capture_output=True, text=True)
            subprocess.run([str(python), "-c", tool.check], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            words = (error.stderr or error.stdout or "").strip().splitlines()
            return f"{tool.package} cannot be used here: {words[-1] if words else f'exit code {error.returncode}'}"
        ready.touch()
    return Installed(tool, str(python))
