"""What is shown or exported, and where to."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from msgspec import Struct

from loraprof.model.report import Report
from loraprof.model.scene import Drawn

if TYPE_CHECKING:  # of what is kept, nothing is read or analysed
    from loraprof.analysis.analyse import Analysis
    from loraprof.analysis.ranks.examine import Run
    from loraprof.analysis.ranks.survey import Survey
    from loraprof.diagnosis.build import Diagnosis
    from loraprof.store.cache import Cache
    from loraprof.store.directories import RankFile
    from loraprof.store.kineto.rewrite import Change
    from loraprof.store.recordings import Source

T = TypeVar("T")


class Job(Struct, frozen=True, dict=True):
    """One input and where its analysis goes; what is needed is read when it is first asked for.

    ``run``: how many ranks are analysed, one after the other where it is None; ``cache``: what is kept of the input.
    """

    load: "Callable[[], Source]"
    target: Path = Path()
    force: bool = False
    run: "Run | None" = None
    cache: "Cache | None" = None

    @cached_property
    def source(self) -> "Source":
        return self.load()

    @cached_property
    def ranks(self) -> "tuple[RankFile, ...]":
        """Each rank's files; a foreign trace is rank 0."""
        from loraprof.store.directories import RankFile

        return self.source.ranks or (RankFile(0, self.source.traces[0]),)

    @cached_property
    def survey(self) -> "Survey | None":
        """All ranks together; None where there is one."""
        from loraprof.analysis.ranks.examine import sequential
        from loraprof.diagnosis.load import surveyed

        return surveyed(self.source, self.run or sequential) if len(self.ranks) > 1 else None

    @cached_property
    def diagnosis(self) -> "Diagnosis":
        """The shown rank's, with what all ranks say together."""
        from loraprof.diagnosis.load import diagnosis_of, ranks_diagnosis

        return diagnosis_of(self.source) if self.survey is None else ranks_diagnosis(self.source, self.survey)

    @cached_property
    def report(self) -> Report:
        return self._kept("report", Report, self._report)

    def _report(self) -> Report:
        return self.diagnosis.report

    @cached_property
    def shown(self) -> "RankFile":
        """The rank that the report describes: the slowest."""
        from loraprof.diagnosis.load import file_of

        return self.ranks[0] if self.survey is None else file_of(self.source, self.survey)

    @property
    def analysis(self) -> "Analysis":
        """The shown rank's."""
        return self.diagnosis.analysis

    def drawn(self) -> Drawn:
        """What a page in a browser shows besides the report."""
        return self._kept("drawn", Drawn, self._drawn)

    def _drawn(self) -> Drawn:
        from loraprof.report.page.drawn import drawn_of

        return drawn_of(self.diagnosis)

    def _kept(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        return make() if self.cache is None else self.cache.get(name, kind, make)

    def copy(self, file: "RankFile", out: IO[bytes], *changes: "Change", extra: Iterable[bytes] = ()) -> None:
        """Writes one rank's trace."""
        from loraprof.store.kineto.rewrite import rewrite

        rewrite(file.trace, out, changes, None, extra)
