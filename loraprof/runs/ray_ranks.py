"""Analyses the ranks of a recording as Ray tasks: each reads one rank's files where they lie, its breakdown travels.

The files must be where the workers see them: behind a URL, or on a file system that all machines share.
"""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from loraprof.analysis.ranks.examine import LeftOut, Result, Run, examine
from loraprof.errors import UsageError
from loraprof.runs.executor import Lost, on_ray
from loraprof.store.directories import RankFile
from loraprof.store.places import Place, RemotePath


def ranks_on_ray(address: str) -> Run:
    """How the ranks of one report are run on the cluster at ``address``."""

    def run(files: Sequence[RankFile]) -> Iterator[Result]:
        jobs = {str(file.trace): _seen_from_afar(file) for file in files}
        found = dict(on_ray(address, examine)(jobs))
        for file in files:
            answer = found[str(file.trace)]
            if isinstance(answer, Lost):
                answer = LeftOut(file.rank, file.trace.name, f"its Ray task failed, {answer.reason}")
            yield answer

    return run


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
