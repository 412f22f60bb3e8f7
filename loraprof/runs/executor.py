"""Jobs that other processes do: one answer each, or why there is none. On this machine, or as tasks of a Ray cluster.

Trials of a fix are no such jobs: they are forks of one trained state, timed in turn. Nor are estimates: those for all
GPUs take a tenth of a second, less than a process that loads loraprof.
"""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from loraprof.errors import MeasurementError
from loraprof.runs.worker import Answer, Command, Job, ask

ATTEMPTS: Final = 3  # of a job whose process dies
CONNECT_S: Final = 5.0


class Lost(NamedTuple):
    """No answer came."""

    reason: str


Execute = Callable[[Mapping[str, Job]], Iterator[tuple[str, Answer | Lost]]]  # what is done is yielded at once


def in_turn(command: Command, kind: type[Answer], say: Callable[[str], None]) -> Execute[Any, Answer]:
    """On this machine, whose devices the jobs share: a process each, one at a time."""

    def execute(jobs: Mapping[str, msgspec.Struct]) -> Iterator[tuple[str, Answer | Lost]]:
        for key, job in jobs.items():
            yield key, _answer_of(key, job, command, kind, say)

    return execute


def on_ray(address: str, work: Callable[[Job], Answer], device: bool = False) -> Execute[Job, Answer]:
    """On the cluster at ``address``, in the order in which they end. ``device``: each in a fresh process with a GPU of
    its own, where there are GPUs. Raises MeasurementError as ``cluster`` does."""

    def execute(jobs: Mapping[str, Job]) -> Iterator[tuple[str, Answer | Lost]]:
        with cluster(address) as ray:
            alone = {"num_gpus": 1 if ray.cluster_resources().get("GPU") else 0, "max_calls": 1} if device else {}
            start = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, **alone)(work)
            running = {start.remote(job): key for key, job in jobs.items()}
            while running:
                (task, *_), _ = ray.wait(list(running), num_returns=1)
                yield running.pop(task), _ray_answer(ray, task)

    return execute


def _answer_of(
    key: str, job: msgspec.Struct, command: Command, kind: type[Answer], say: Callable[[str], None]
) -> Answer | Lost:
    for left in reversed(range(ATTEMPTS)):
        answer, ended = ask(command, job, kind)
        if answer is not None:
            return answer
        died = f"signal {-ended.code}" if ended.code < 0 else ended.said
        if left:
            say(f"the process of {key} died ({died}); running it again")
    return Lost(f"its process died {ATTEMPTS} times: {died}")


def _ray_answer(ray: Any, task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        return Lost(str(error).strip().splitlines()[-1])


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The module ``ray``, connected. Raises MeasurementError without Ray, or when the address does not answer."""
    try:
        import ray
    except ImportError:
        raise MeasurementError("--address needs Ray, which is not installed", "pip install 'loraprof[ray]'") from None
    _answers(address)
    try:
        where = None if address == "local" else address
        ray.init(address=where, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MeasurementError(f"Ray at {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), CONNECT_S).close()
    except OSError as error:
        raise MeasurementError(f"Ray at {address}: {error.strerror or error}", "`ray status` shows it") from None
