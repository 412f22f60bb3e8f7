"""Runs trials one after the other, each in a fork of a process that has imported torch: a start costs no import.

    python -m loraprof.runs.fix.server PACKAGE… , then one JSON ``Order`` a line on stdin, one JSON ``Ended`` on stdout.

Nothing is computed in the server itself, so that a fork has neither threads nor a CUDA context. A fork leads a session
of its own: what runs too long is killed with all that it started.
"""

import contextlib
import os
import select
import signal
import sys
from importlib import import_module
from pathlib import Path

import msgspec

from loraprof.collector import end_unwalked
from loraprof.lifeline import end_with
from loraprof.runs.fix.job import Order
from loraprof.runs.fix.ranks import in_ranks, told_and_gone
from loraprof.store.writing import write


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """``signal`` that ended the fork, None for an end of its own; ``late``: it ran past its limit."""

    code: int
    signal: int | None = None
    late: bool = False


def serve(packages: list[str]) -> None:
    import torch._dynamo  # noqa: F401  every optimizer's construction does, and it takes seconds

    for name in packages:
        with contextlib.suppress(ImportError):
            import_module(name)
    import loraprof.runs.fix.trial  # noqa: F401

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what a fork has started ends too
    end_unwalked()  # a fork ends by itself
    for line in sys.stdin.buffer:
        ended = _run(msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(ended) + b"\n")
        sys.stdout.flush()


def _run(order: Order) -> Ended:
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _child(order, parent)
    handle = os.pidfd_open(child)
    try:
        late = not select.select([handle], [], [], order.limit_s)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # on time, it is what the fork left running
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code=max(0, code), signal=-code if code < 0 else None, late=late)


def _child(order: Order, parent: int) -> None:
    """Never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        end_with(parent)
        with open(order.log, "wb") as log, open(os.devnull, "rb") as empty:
            os.dup2(empty.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        from loraprof.runs.fix.trial import try_out

        found = in_ranks(order) if order.command.ranks > 1 else try_out(order.command, order.trial)
        write(Path(order.answer), msgspec.msgpack.encode(found))
        sys.stdout.flush()
    except BaseException:
        told_and_gone()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1:])
