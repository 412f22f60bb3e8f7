"""One run of a program on several ranks of this machine, each in a fork of its own, as torchrun would start them."""

import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from statistics import fmean
from typing import NoReturn

import msgspec
from msgspec.structs import replace

from loraprof.lifeline import end_with
from loraprof.runs.fix.job import Found, Order
from loraprof.store.writing import write


def in_ranks(order: Order) -> Found:
    """All ranks apply the same remedies; all end with the first that fails."""
    world = order.command.ranks
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = os.getpid()
    processes: dict[int, int] = {}
    for rank in range(world):
        child = os.fork()
        if child == 0:
            _rank(order, rank, launch, own)
        processes[child] = rank
    answers: dict[int, Found] = {}
    while processes:
        child, state = os.wait()
        rank = processes.pop(child)
        answers[rank] = _answer(order, rank, os.waitstatus_to_exitcode(state))
        if answers[rank].status != "ok":
            for process in processes:
                os.kill(process, signal.SIGKILL)
            break
    return of_ranks([answers[rank] for rank in sorted(answers)])


def _rank(order: Order, rank: int, launch: dict[str, object], parent: int) -> NoReturn:
    end_with(parent)
    os.environ.update({key: str(value) for key, value in {**launch, "RANK": rank, "LOCAL_RANK": rank}.items()})
    try:
        from loraprof.runs.fix.trial import try_out

        write(_place(order, rank), msgspec.msgpack.encode(try_out(order.command, order.trial)))
        sys.stdout.flush()
    except BaseException:
        told_and_gone()
    os._exit(0)


def told_and_gone() -> NoReturn:
    """Ends a fork with the traceback of what went wrong in it."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def _place(order: Order, rank: int) -> Path:
    return Path(f"{order.answer}.{rank}")


def _answer(order: Order, rank: int, code: int) -> Found:
    place = _place(order, rank)
    if code or not place.exists():
        return Found(status="failed", reason=f"rank {rank} ended with code {code}")
    found = msgspec.msgpack.decode(place.read_bytes(), type=Found)
    place.unlink()
    return found


def of_ranks(found: list[Found]) -> Found:
    """One answer: of the first that failed; else a step lasts as long as its slowest rank's, losses are means."""
    bad = next((one for one in found if one.status != "ok"), None)
    if bad is not None:
        return bad
    losses = [one.losses for one in found if one.losses]
    return replace(
        found[0],
        times_ns=[max(times) for times in zip(*(one.times_ns for one in found), strict=False)],
        losses=[fmean(step) for step in zip(*losses, strict=False)] if losses else [],
        peak_bytes=max((one.peak_bytes or 0 for one in found), default=0) or None,
        unfit={name: reason for one in reversed(found) for name, reason in one.unfit.items()},
    )
