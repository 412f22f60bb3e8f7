"""What is exported, and where to."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.diagnosis.load import report_of
from loraprof.diagnosis.ranks import rows_of, slowest
from loraprof.model.recording import Recording
from loraprof.model.report import Report
from loraprof.store.kineto import read_trace
from loraprof.store.recordings import Source
from loraprof.store.redact import kept_value, redacted, without_paths
from loraprof.store.rewrite import Change, rewrite


class Rank(NamedTuple):
    """One rank of what is exported."""

    number: int
    trace: Path
    recording: Recording | None


@dataclass(frozen=True)
class Job:
    """One export; what it needs is read when it is first asked for."""

    given: Source
    target: Path
    force: bool = False
    redact: bool = False

    @cached_property
    def source(self) -> Source:
        return redacted(self.given) if self.redact else self.given

    @cached_property
    def ranks(self) -> tuple[Rank, ...]:
        """Each rank's trace and recording; a foreign trace is rank 0."""
        source = self.source
        known = source.ranks or ((0, None),)
        pairs = zip(known, source.traces, strict=True)
        return tuple(Rank(rank, trace, own or source.recording) for (rank, own), trace in pairs)

    @cached_property
    def report(self) -> Report:
        report = report_of(self.source)
        if not self.redact:
            return report
        return msgspec.json.decode(without_paths(msgspec.json.encode(report)), type=Report)

    @cached_property
    def shown(self) -> Rank:
        """The rank that the report describes: the slowest."""
        if len(self.ranks) == 1:
            return self.ranks[0]
        rows, _ = rows_of([(rank.number, rank.trace, rank.recording) for rank in self.ranks])
        chosen = slowest(rows).rank
        return next(rank for rank in self.ranks if rank.number == chosen)

    @cached_property
    def analysis(self) -> Analysis:
        """The shown rank's."""
        return analyse(read_trace(self.shown.trace), self.shown.recording)

    def copy(self, trace: Path, out: IO[bytes], *changes: Change, extra: Iterable[bytes] = ()) -> None:
        """Writes one rank's trace, redacted where that was asked for."""
        if self.redact:
            rewrite(trace, out, (without_paths, *changes), kept_value, extra)
        else:
            rewrite(trace, out, changes, None, extra)
