"""Runs parts, each in a process group of its own that a timeout ends whole; keeps what is finished.

A result appears complete or not at all, so whatever ends the suite costs only the part in flight.
"""

import datetime
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.gpu.parts import TIMEOUT_S, Part
from benchmarks.gpu.results import NotHere, Options, PartResult, load_results, save_result

ROOT: Final = Path(__file__).resolve().parents[2]
LEAST_S: Final = 20.0  # below this no part can be done
Say = Callable[[str], None]


def run_parts(
    parts: Sequence[Part],
    options: Options,
    *,
    again: bool,
    budget_s: float | None,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, PartResult]:
    """Runs what is not finished, in order; returns the results by part. With a budget it ends in time."""
    (options.out / "logs").mkdir(parents=True, exist_ok=True)
    begun = clock()
    for part in parts:
        found = load_results(options.out).get(part.name)
        if found is not None and found.serves(options) and not again:
            say(f"{part.name}: kept from {found.created}")
            continue
        left_s = TIMEOUT_S if budget_s is None else budget_s - (clock() - begun)
        if budget_s is not None and left_s < max(part.cost_s, LEAST_S):
            say(f"{part.name}: left out, it takes about {part.cost_s} s and {max(left_s, 0):.0f} s are left")
            continue
        say(f"{part.name}: {part.what}")
        done = run_part(part, options, min(TIMEOUT_S, left_s))
        say(f"{part.name}: {done.status} after {done.seconds:.0f} s" + (f", {done.reason}" if done.reason else ""))
    return load_results(options.out)


def run_part(part: Part, options: Options, timeout_s: float) -> PartResult:
    """One part in a process of its own. What happens to it becomes a result, whatever it is."""
    before, log = _stamp(part, options), options.out / "logs" / f"{part.name}.log"
    begin = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command_of(part, options),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_environment(options),
            start_new_session=True,
        )
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _end(child)
            return _lost(part, options, begin, f"it was stopped after {timeout_s:.0f} s")
        except BaseException:
            _end(child)
            raise
    done = load_results(options.out).get(part.name)
    if done is not None and _stamp(part, options) != before:
        return done
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return _lost(part, options, begin, f"its process ended with code {child.returncode}: {said[-1] if said else ''}")


def command_of(part: Part, options: Options) -> list[str]:
    """The command line of a part's own process."""
    front = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), "--worker", part.name]
    return [*front, "--device", options.device, "--size", options.size, "--out", options.folder]


def _environment(options: Options) -> dict[str, str]:
    """This copy of loraprof; in a rehearsal one thread, since many would only wait for each other in tiny ops."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    threads = {"OMP_NUM_THREADS": "1"} if options.size == "small" else {}
    return {**threads, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _stamp(part: Part, options: Options) -> int | None:
    """Tells a new result from an old one."""
    path = options.out / f"{part.name}.json"
    return path.stat().st_ino if path.exists() else None


def _end(child: "subprocess.Popen[bytes]") -> None:
    """The child and all it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def _lost(part: Part, options: Options, begin: float, reason: str) -> PartResult:
    made = _result(part, options, begin, "failed", reason)
    save_result(options.out, made)
    return made


def work(part: Part, options: Options) -> PartResult:
    """The part itself, in this process; its result is saved."""
    begin = time.monotonic()
    try:
        _needs(options)
        module = importlib.import_module(f"benchmarks.gpu.{part.module}")
        found = msgspec.json.encode(module.run(options, *part.words))
        done = _result(part, options, begin, "ok", None, found)
    except NotHere as error:
        done = _result(part, options, begin, "not here", str(error))
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines()
        done = _result(part, options, begin, "failed", f"{type(error).__name__}: {said[0] if said else ''}")
    save_result(options.out, done)
    return done


def _needs(options: Options) -> None:
    """Raises NotHere where the device is not there."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise NotHere("no CUDA device is available, `loraprof doctor` says why")


def _result(
    part: Part, options: Options, begin: float, status: str, reason: str | None, found: bytes = b"null"
) -> PartResult:
    return PartResult(
        part=part.name,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        device=options.device,
        size=options.size,
        seconds=round(time.monotonic() - begin, 1),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        result=msgspec.Raw(found),
    )
