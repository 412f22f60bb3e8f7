"""A Ray cluster for as long as it is needed: ``local`` starts one on this machine, any other address joins one."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from loraprof.errors import MeasurementError

CONNECT_S: Final = 5.0


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
