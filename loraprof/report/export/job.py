"""What is exported, and where to."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.prediction.plain_scene import plain_scene
from loraprof.analysis.ranks.examine import Run, sequential
from loraprof.analysis.step.scene import scene_of
from loraprof.diagnosis.load import file_of, ranks_report, report_of, surveyed
from loraprof.model.report import Report
from loraprof.model.scene import Scene
from loraprof.store.directories import RankFile
from loraprof.store.kineto.read import read_trace
from loraprof.store.kineto.rewrite import Change, rewrite
from loraprof.store.rank_files import recording_of
from loraprof.store.recordings import Source

if TYPE_CHECKING:
    from loraprof.analysis.ranks.survey import Survey  # of many ranks only


@dataclass(frozen=True)
class Job:
    """One export; what it needs is read when it is first asked for. ``run``: how many ranks are analysed."""

    source: Source
    target: Path
    force: bool = False
    run: Run = sequential

    @cached_property
    def ranks(self) -> tuple[RankFile, ...]:
        """Each rank's files; a foreign trace is rank 0."""
        return self.source.ranks or (RankFile(0, self.source.traces[0]),)

    @cached_property
    def survey(self) -> "Survey | None":
        """All ranks together; None where there is one."""
        return surveyed(self.source, self.run) if len(self.ranks) > 1 else None

    @cached_property
    def report(self) -> Report:
        return report_of(self.source) if self.survey is None else ranks_report(self.source, self.survey)

    @cached_property
    def shown(self) -> RankFile:
        """The rank that the report describes: the slowest."""
        return self.ranks[0] if self.survey is None else file_of(self.source, self.survey)

    @cached_property
    def analysis(self) -> Analysis:
        """The shown rank's."""
        own = recording_of(self.shown) or self.source.recording
        step = self.survey.step if self.survey is not None else None
        return analyse(read_trace(self.shown.trace), own, step)

    def scenes(self) -> tuple[Scene, ...]:
        """The shown rank's reported step, to be drawn: as it runs where that is known, and as it was profiled."""
        return tuple(filter(None, (plain_scene(self.analysis), scene_of(self.analysis))))

    def copy(self, file: RankFile, out: IO[bytes], *changes: Change, extra: Iterable[bytes] = ()) -> None:
        """Writes one rank's trace."""
        rewrite(file.trace, out, changes, None, extra)
