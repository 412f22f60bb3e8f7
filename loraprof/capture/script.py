"""Runs an unmodified script or module under a session: its own argv, __main__, working directory, exit code."""

import resource
import runpy
import sys
import traceback
from pathlib import Path

from loraprof.errors import LoraprofError, MeasurementError, UsageError

CHILD_WORK_S = 1.0  # CPU time of ended child processes that looks like training


class Finished(SystemExit):
    """The clean stop: raised from the step hook, so the script's ``finally`` blocks run."""

    def __init__(self) -> None:
        super().__init__(0)


def run_script(target: list[str], module: bool) -> int:
    """Runs ``target`` (path or module name, then its arguments) as ``__main__`` and returns its exit code.

    ``SystemExit`` becomes the code python would have exited with; any other exception is printed as python would
    print it, from the script's own frames on, and is code 1.
    """
    name = target[0]
    argv, path = sys.argv, list(sys.path)
    if not module and not Path(name).is_file():
        raise UsageError(f"{name}: no such script or workload", "`loraprof workloads` lists the built-in ones")
    sys.argv = list(target)
    sys.path[0:0] = [] if module else [str(Path(name).resolve().parent)]
    try:
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as stop:
        return _code(stop.code)
    except (KeyboardInterrupt, LoraprofError):
        raise
    except BaseException as error:
        _print(error)
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def _print(error: BaseException) -> None:
    """The traceback without the frames of loraprof and runpy that lie above the script."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") != "__main__":
        frames = frames.tb_next
    traceback.print_exception(error.with_traceback(frames or error.__traceback__))


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
            "start one process per rank: torchrun --nproc-per-node N -m loraprof profile SCRIPT",
        )
    if steps == 0:
        return MeasurementError(
            "the script ended without an optimizer step", "loraprof finds steps by torch.optim's step hooks"
        )
    return MeasurementError(
        f"the script ended after {steps} optimizer steps; the recording needs {needed}",
        "train longer, or lower --skip, --timed and --steps",
    )
