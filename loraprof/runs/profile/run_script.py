"""Runs an unmodified script or module under a session: its own argv, __main__, search path, exit code."""

import atexit
import os
import resource
import runpy
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NoReturn
from zipfile import is_zipfile

from loraprof.errors import LoraprofError, MeasurementError, UsageError
from loraprof.store.specs import workload_names

CHILD_WORK_S = 1.0  # CPU time of ended child processes that looks like training
_KEPT: list[object] = []  # what scripts left behind, until the process ends


def stop_script() -> NoReturn:
    """The clean stop, from a step hook: the script's ``finally`` blocks run, and a thread ends without a word."""
    raise SystemExit(0)


def stop_main_thread() -> None:
    """The same, where the main thread trains. Another thread goes on: who waits for it may need what it returns."""
    if threading.current_thread() is threading.main_thread():
        stop_script()


def check_script(name: str) -> None:
    """Raises UsageError when ``name`` is nothing that python could run."""
    path = Path(name)
    if name.rstrip("/").endswith((".loraprof", ".json", ".json.gz")):
        raise UsageError(f"{name}: a recording or a trace, not a script", f"loraprof report {name}")
    if path.is_file() or (path / "__main__.py").is_file():
        return
    near = get_close_matches(name, workload_names(), n=1)
    hint = f"the workload is called {near[0]}" if near else "`loraprof workloads` lists the built-in ones"
    raise UsageError(f"{name}: no such script or workload", hint)


def run_script(target: list[str], module: bool, keep: bool = False) -> int:
    """Runs ``target`` (path or module name, then its arguments) as ``__main__`` and returns its exit code.

    ``SystemExit`` becomes the code python would have exited with; any other exception is printed as python would
    print it, from the script's own frames on, and is code 1. What the script replaced in ``sys`` is put back.
    A child that the script forked ends here, as python would have ended it.
    ``keep``: its variables live on. The last reference to DDP's reducer ends gloo's group, which with Python's lock
    held waits for its threads, and those may be waiting for that lock (torch 2.13): the process would hang.
    """
    name, process = target[0], os.getpid()
    if not module:
        check_script(name)
    with _environment(target, module):
        try:
            left: object = _run_module(name) if module else _run_file(name)
            code = 0
        except SystemExit as stop:
            left, code = stop, _code(stop.code)
        except (KeyboardInterrupt, LoraprofError):
            if os.getpid() == process:
                raise
            left, code = None, 130
        except BaseException as error:
            left, code = error, 1
            _print(error)
        if os.getpid() != process:
            _end_child(code)
        if keep:
            _KEPT.append(left)
    return code


def _end_child(code: int) -> NoReturn:
    """All that python does at its end, but no destructors of C++: Kineto's waits for a thread that no fork has."""
    vars(threading)["_shutdown"]()
    vars(atexit)["_run_exitfuncs"]()
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    os._exit(code)


@contextmanager
def _environment(target: list[str], module: bool) -> Iterator[None]:
    """``sys`` as python sets it up for the target: the first entry of the search path is the script's folder."""
    before = sys.argv, list(sys.path), sys.modules["__main__"], sys.stdout, sys.stderr
    sys.argv = list(target)
    if not sys.flags.safe_path:
        sys.path[:1] = [os.getcwd() if module else _folder(target[0])]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        sys.argv, sys.path[:], sys.modules["__main__"], sys.stdout, sys.stderr = before


def _folder(name: str) -> str:
    path = Path(name).resolve()
    return str(path if path.is_dir() or is_zipfile(path) else path.parent)


def _flush(stream: object) -> None:
    """A script may have put anything in the place of a stream, or closed it."""
    try:
        stream.flush()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return


def _run_file(name: str) -> dict[str, object]:
    """The script's variables."""
    if Path(name).is_dir() or is_zipfile(name) or name.endswith(".pyc"):
        return runpy.run_path(name, run_name="__main__")
    path = os.path.abspath(name)  # links stay, as python leaves them in __file__
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", path)
    vars(main).update(__file__=path, __cached__=None, __loader__=loader, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    exec(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True), vars(main))
    return vars(main)


def _run_module(name: str) -> dict[str, object]:
    """The module's variables."""
    try:
        known = find_spec(name) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise UsageError(f"{name}: no such module", "-m takes a module's dotted name, not a path")
    return runpy.run_module(name, run_name="__main__", alter_sys=True)


def _print(error: BaseException) -> None:
    """The traceback without the frames of loraprof and runpy that lie above the script."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") != "__main__":
        frames = frames.tb_next
    traceback.print_exception(error.with_traceback(frames))


def _code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def explain_missing(steps: int, needed: int) -> MeasurementError:
    """Why a script that ended gave no recording."""
    if steps == 0 and resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > CHILD_WORK_S:
        return MeasurementError(
            "the training ran in other processes: no optimizer stepped in this one",
            "name the whole command: loraprof profile -- python SCRIPT",
        )
    if steps == 0:
        return MeasurementError(
            "the script ended without an optimizer step", "loraprof finds steps by torch.optim's step hooks"
        )
    return MeasurementError(
        f"the script ended after {steps} optimizer steps; the recording needs {needed}",
        "train longer, or lower --skip, --timed and --steps",
    )
