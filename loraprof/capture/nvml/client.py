"""How does the measured process ask for NVML samples? It starts another process and talks to it over a pipe.

    sampler = NvmlSampler(uuid)
    sampler.start()                      # counters are read, sampling runs
    ...the loop, synchronised at both ends...
    nvml = sampler.stop(steps, loop_ns)  # None: see sampler.reason

The child dies with its parent, see nvml_process. A sampler that cannot work costs the capture nothing else than
its figures.
"""

import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from loraprof.model.recording import Nvml

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 10.0  # NVML may take seconds to initialise where persistence mode is off
PROBE_S: Final = 0.25


class NvmlSampler:
    """Samples the GPU ``uuid`` every ``period_s`` seconds between ``start`` and ``stop``.

    ``reason`` says why there is nothing to sample; it is ``None`` while all is well. ``library`` replaces pynvml
    (see nvml_errors.load). No method raises because of NVML.
    """

    def __init__(self, uuid: str, period_s: float = 0.05, library: str | None = None) -> None:
        self.reason: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "loraprof.capture.nvml.process", "--uuid", uuid]
        self._command += ["--period-ns", str(round(period_s * 1e9)), "--parent", str(os.getpid())]
        self._command += ["--library", library] if library else []

    def start(self) -> None:
        """Starts the process where there is none, and a loop. Returns when the first counters are read."""
        if self._process is None and self.reason is None:
            self._process = _spawn(self._command)
            self._end = weakref.finalize(self, _end, self._process, os.getpid())
            self._ask(None)
        if self._process is not None:
            self._ask("start")

    def stop(self, steps: int, loop_ns: int) -> Nvml | None:
        """The loop's figures, or ``None`` with ``reason`` set. The process stays for the next loop."""
        answer = self._ask(f"stop {steps} {loop_ns}") if self._process is not None else None
        if answer is None:
            self.reason = self.reason or "the sampler was not started"
            return None
        try:
            return msgspec.json.decode(answer, type=Nvml)
        except msgspec.ValidationError as error:
            self.reason = f"NVML answered what cannot be: {error}"
            return None

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process = None
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, command: str | None) -> bytes | None:
        """Sends a line (``None``: only waits) and returns the answer; on any trouble ``None`` and the reason."""
        process = self._process
        if process is None or process.stdin is None:
            return None
        try:
            if command is not None:
                process.stdin.write(f"{command}\n".encode())
            answer = _line(process, time.monotonic() + PATIENCE_S)
        except TimeoutError:
            self.reason = f"NVML did not answer within {PATIENCE_S:g} s"
        except (BrokenPipeError, EOFError):
            self.reason = f"the sampler ended: {_last_words(process)}"
        else:
            if not answer.startswith(b"no "):
                return answer
            self.reason = answer[3:].decode().strip()
        self.close()
        return None


def probe(uuid: str, library: str | None = None) -> tuple[Nvml | None, str | None]:
    """A quarter of a second of samples: what NVML can say about this device, or why nothing."""
    with NvmlSampler(uuid, library=library) as sampler:
        sampler.start()
        started_ns = time.monotonic_ns()
        if sampler.reason is None:
            time.sleep(PROBE_S)
        return sampler.stop(1, time.monotonic_ns() - started_ns), sampler.reason


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    pipe = subprocess.PIPE
    return subprocess.Popen(  # unbuffered: select must see what has arrived
        command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "PYTHONPATH": path}
    )


def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """One line of the child. Raises TimeoutError, EOFError."""
    assert process.stdout is not None
    received = bytearray()
    while not received.endswith(b"\n"):
        wait_s = max(deadline - time.monotonic(), 0)
        if not select.select([process.stdout], [], [], wait_s)[0]:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), 1 << 20)
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """The last line of stderr of a child that has ended or is about to."""
    process.kill()
    words = process.communicate()[1].decode(errors="replace").strip().splitlines()
    return words[-1] if words else "no message"


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """By the process that started it; a fork of that leaves it alone."""
    if os.getpid() != owner:
        return
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None and not pipe.closed:
            pipe.close()
    process.kill()
    process.wait()
