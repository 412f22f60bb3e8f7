"""Python processes that start warm: forked from one that holds torch and PEFT, which take five seconds to load.

``python("-m", "loraprof", …)`` runs what ``python -m loraprof …`` runs, in a process of its own. ``started`` is for
whoever has something to do meanwhile: one runs at a time.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
LOADED = ("torch._functorch.aot_autograd", "peft", "loraprof.capture.ranks.save", "loraprof.diagnosis.build")
LIMIT_S = 300


@cache
def _server() -> subprocess.Popen[str]:
    roots = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": roots}  # threads are chosen as torch loads
    command = [sys.executable, "-P", str(HERE / "warm.py")]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    server.communicate()


@dataclass(frozen=True, slots=True)
class Started:
    """Leads a session and a process group of its own."""

    pid: int
    server: subprocess.Popen[str]
    folder: Path

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. Once, and before anything else is started."""
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def said(self) -> list[str]:
        """What it wrote to stdout and stderr so far."""
        return [(self.folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]


def started(folder: Path, *words: str, cwd: Path | None = None, **env: str) -> Started:
    """A script or ``-m`` module that runs from now on; its output goes to files in ``folder``."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    out, err = (str(folder / name) for name in ("out", "err"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    request = {"words": words, "cwd": str(cwd or Path.cwd()), "env": environment, "out": out, "err": err}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Started(int(server.stdout.readline()), server, folder)


def python(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a script or ``-m`` module with one thread; ``env`` adds to this process's environment."""
    with tempfile.TemporaryDirectory() as folder:
        run = started(Path(folder), *words, cwd=cwd, **env)
        return subprocess.CompletedProcess(words, run.wait(), *run.said())


def _next_words() -> list[str] | None:
    """What a child is to run; None in the server, once nobody asks any more."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(**request)
            words: list[str] = request["words"]
            return words
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.alarm(LIMIT_S)
    for stream, path, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, mode | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.chdir(cwd)
    sys.argv = words[words[0] == "-m" :]
    sys.path.insert(0, cwd if words[0] == "-m" else str(Path(words[0]).resolve().parent))


def _serve() -> None:
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    words = _next_words()
    if words is None:
        return
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
