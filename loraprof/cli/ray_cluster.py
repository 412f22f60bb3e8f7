"""A Ray cluster for as long as it is needed: ``local`` starts one on this machine, any other address joins one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loraprof.errors import MeasurementError


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The module ``ray``, connected. Raises MeasurementError without Ray, or when the address does not answer."""
    try:
        import ray
    except ImportError:
        raise MeasurementError("--address needs Ray, which is not installed", "pip install 'loraprof[ray]'") from None
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MeasurementError(f"Ray at {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
