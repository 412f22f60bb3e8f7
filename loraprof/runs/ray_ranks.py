"""Analyses the ranks of a recording as Ray tasks: each reads one rank's files where they lie, its breakdown travels.

The files must be where the workers see them: behind a URL, or on a file system that all machines share.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from loraprof.analysis.ranks.examine import LeftOut, Result, Run, examine
from loraprof.errors import UsageError
from loraprof.runs.ray_cluster import cluster
from loraprof.store.directories import RankFile
from loraprof.store.places import Place, RemotePath

RETRIES = 2


def on_ray(address: str) -> Run:
    """How the ranks of one report are run on the cluster at ``address``."""

    def run(files: Sequence[RankFile]) -> Iterator[Result]:
        jobs = [_seen_from_afar(file) for file in files]
        with cluster(address) as ray:
            start = ray.remote(num_cpus=1, max_retries=RETRIES)(examine)
            for task, job in [(start.remote(job), job) for job in jobs]:
                yield _result(ray, task, job)

    return run


def _result(ray: Any, task: Any, job: RankFile) -> Result:
    try:
        found: Result = ray.get(task)
    except ray.exceptions.RayError as error:
        return LeftOut(job.rank, job.trace.name, f"its Ray task failed, {str(error).strip().splitlines()[-1]}")
    return found


def _seen_from_afar(file: RankFile) -> RankFile:
    own, shared = (place and _whole(place) for place in (file.own, file.shared))
    return replace(file, trace=_whole(file.trace), own=own, shared=shared)


def _whole(place: Place) -> Place:
    """A path that does not depend on the working directory. Raises UsageError for what only this process sees."""
    if not isinstance(place, RemotePath):
        return place.absolute()
    if place.private:
        raise UsageError(f"{place}: no other process sees it", "leave --address out")
    return place
