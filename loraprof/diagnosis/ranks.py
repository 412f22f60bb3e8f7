"""Many ranks: which is the slowest, and what does each spend on waiting for the others?

Ranks are analysed one by one in worker processes; only a row per rank travels, so a thousand ranks cost the memory of
two. The report's main fields are those of the slowest rank.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from loraprof.errors import InputError
from loraprof.model.recording import Recording
from loraprof.model.report import RankRow, Step
from loraprof.model.vocabulary import PHASES

Job = tuple[int, Path, Recording | None]


def row_of(rank: int, step: Step, device: str) -> RankRow:
    """One rank's reported step in brief. On a CPU exposed communication is the time spent waiting for it."""
    waiting = step.ns(kind="idle", role="comm", cause="sync")
    exposed = step.ns(kind="busy", class_="comm") if device == "cuda" else waiting
    return RankRow(
        rank=rank,
        wall_ns=step.wall_ns,
        busy_ns=step.ns(kind="busy"),
        exposed_comm_ns=exposed,
        overlapped_comm_ns=sum(o.ns for o in step.overlap if o.under == "comm"),
        idle_ns=step.ns(kind="idle"),
        phases_ns={phase: step.ns(phase=phase) for phase in PHASES},
    )


def analyse_rank(job: Job) -> RankRow | str:
    """A rank's row, or one line that says why it has none."""
    from loraprof.analysis.analyse import analyse
    from loraprof.store.kineto import read_trace

    rank, path, recording = job
    try:
        analysis = analyse(read_trace(path), recording)
    except InputError as error:
        return f"rank {rank} left out: {error.message}"
    if analysis.reported is None:
        return f"rank {rank} left out: its trace holds no step"
    return row_of(rank, analysis.steps[analysis.reported], "cuda" if analysis.on_gpu else "cpu")


def rows_of(jobs: list[Job]) -> tuple[list[RankRow], list[str]]:
    """Rows by rank, and what was left out. Raises InputError when no rank can be read."""
    workers = min(len(jobs), os.cpu_count() or 1)
    results: Iterable[RankRow | str]
    if workers > 1 and sum(path.stat().st_size for _, path, _ in jobs) > 8 << 20:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(workers) as pool:
            results = list(pool.map(analyse_rank, jobs))
    else:
        results = [analyse_rank(job) for job in jobs]
    rows = [r for r in results if isinstance(r, RankRow)]
    notes = [r for r in results if isinstance(r, str)]
    if not rows:
        raise InputError(notes[0] if notes else "the recording holds no ranks", "record it again")
    return sorted(rows, key=lambda r: r.rank), notes


def slowest(rows: list[RankRow]) -> RankRow:
    """The rank that keeps the others waiting: least time waiting for communication, longest window among equals."""
    return min(rows, key=lambda r: (r.exposed_comm_ns - r.wall_ns, r.rank))
