"""Spreads the cells of a sweep over GPUs and machines with Ray: one task, one process and one GPU per cell.

Ray starts a task again when its worker dies; the driver keeps each finished cell at once.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loraprof.model.sweep import SweepCell
from loraprof.runs.ray_cluster import cluster
from loraprof.runs.sweep.cell import CellJob, measure_cell
from loraprof.runs.sweep.cells import ATTEMPTS, keep


def run_on_ray(
    jobs: Mapping[str, tuple[dict[str, str], bytes]], folder: Path, address: str
) -> Iterator[tuple[str, SweepCell]]:
    """Yields each cell when it is done, in the order in which they end. Raises MeasurementError without Ray."""
    with cluster(address) as ray:
        # max_calls=1: every cell in a fresh process, as without Ray.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        start = ray.remote(num_gpus=gpus, max_calls=1, max_retries=ATTEMPTS - 1)(_cell)
        running = {start.remote(job): (key, values) for key, (values, job) in jobs.items()}
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            key, values = running.pop(ready[0])
            yield key, _result(ray, ready[0], folder, key, values)


def _result(ray: Any, task: Any, folder: Path, key: str, values: dict[str, str]) -> SweepCell:
    try:
        cell = msgspec.json.decode(ray.get(task), type=SweepCell)
    except ray.exceptions.RayError as error:
        return SweepCell(values=values, status="failed", reason=str(error).strip().splitlines()[-1])
    keep(folder, key, cell)
    return cell


def _cell(job: bytes) -> bytes:
    """Runs in Ray's worker."""
    return msgspec.json.encode(measure_cell(msgspec.json.decode(job, type=CellJob)))
