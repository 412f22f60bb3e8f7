"""What is exported, and where to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.diagnosis.load import report_of
from loraprof.model.report import Report
from loraprof.store.kineto import read_trace
from loraprof.store.recordings import Source
from loraprof.store.redact import kept_value, redacted, without_paths
from loraprof.store.rewrite import Change, rewrite

_RANK = re.compile(r"rank(\d+)\.")


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
    def ranks(self) -> tuple[tuple[int, Path], ...]:
        """Rank and trace of each; a foreign trace is rank 0."""
        found = ((_RANK.match(trace.name) if self.source.recording else None, trace) for trace in self.source.traces)
        return tuple((int(number[1]) if number else 0, trace) for number, trace in found)

    @cached_property
    def report(self) -> Report:
        return report_of(self.source)

    @cached_property
    def analysis(self) -> Analysis:
        """The first rank's."""
        return analyse(read_trace(self.source.traces[0]), self.source.recording)

    def copy(self, trace: Path, out: IO[bytes], *changes: Change, extra: Iterable[bytes] = ()) -> None:
        """Writes one rank's trace, redacted where that was asked for."""
        if self.redact:
            rewrite(trace, out, (without_paths, *changes), kept_value, extra)
        else:
            rewrite(trace, out, changes, None, extra)
