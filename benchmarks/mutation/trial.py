"""Mutants meet their tests, each in a fork."""

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from _pytest.runner import runtestprotocol

from benchmarks.mutation.changes import Mutant
from benchmarks.mutation.lines import LIMIT_S, OPTIONS, Map
from benchmarks.mutation.loading import Finder, Loaded

Run = Callable[["Mutant | None", Sequence[str]], str | None]  # the test that fails with a mutant, "" where none says


@dataclass(frozen=True, slots=True)
class Fate:
    """Of a mutant: ``killer`` is the test that failed, "" where none says; ``late`` where the time was over."""

    killer: str | None = None
    late: bool = False


def forked(work: Callable[[], str | None], seconds: float) -> Fate:
    """What ``work`` gives in a fork that may take so much processor time."""
    sys.stdout.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, theirs, seconds)
    os.close(theirs)
    said, end = b"", time.monotonic() + 20 * seconds  # of a shared machine, and for what waits
    while (left := end - time.monotonic()) > 0 and select.select([ours], [], [], left)[0]:
        more = os.read(ours, 4096)
        said += more
        if not more:
            break
    else:
        os.killpg(child, signal.SIGKILL)
    os.close(ours)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Fate(said.decode() if code == 1 else None, code < 0)


def _child(work: Callable[[], str | None], pipe: int, seconds: float) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        used = int(time.process_time() + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (used, used))
        killer = work()
        code = killer is not None
        os.write(pipe, (killer or "").encode())
    finally:
        os._exit(code)


class Failed:
    """The first test that fails."""

    def __init__(self) -> None:
        self.name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid


def anew(mutant: Mutant | None, tests: Sequence[str]) -> str | None:
    """Loads everything with the mutant; the test that fails, "" where loading does."""
    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant))
    failed = Failed()
    code = pytest.main(["-x", *OPTIONS, *tests], plugins=[failed])
    return None if code == 0 else failed.name or ""


class Trial:
    """Mutants meet their tests; counts what became of them."""

    def __init__(self, tests: Map, minutes: float) -> None:
        self.tests = tests
        self._end = time.monotonic() + 60 * minutes
        self._sound: dict[str, bool] = {}  # a killer: whether it passes without a mutant
        self.counts = dict.fromkeys(("killed", "late", "same", "unreached"), 0)

    def judge(self, mutant: Mutant, run: Run) -> None:
        if time.monotonic() > self._end:
            return
        chosen = self.tests.of(mutant)
        fate = self._fate(mutant, chosen, run)
        while fate.killer and not self._is_sound(fate.killer, run):
            chosen = [name for name in chosen if name != fate.killer]
            fate = self._fate(mutant, chosen, run)
        word = "late" if fate.late else "same" if fate.killer is None else "killed"
        self.counts[word if chosen else "unreached"] += 1
        if word != "killed":
            print(f"{mutant.file}:{mutant.lines.start} {word}, {len(chosen)} tests\n{mutant.change}\n", flush=True)

    def _fate(self, mutant: Mutant, chosen: Sequence[str], run: Run) -> Fate:
        return forked(lambda: run(mutant, chosen), LIMIT_S) if chosen else Fate()

    def _is_sound(self, name: str, run: Run) -> bool:
        if name not in self._sound:
            self._sound[name] = forked(lambda: run(None, [name]), LIMIT_S) == Fate()
            if not self._sound[name]:
                print(f"{name} fails without a mutant\n", flush=True)
        return self._sound[name]


class Session:
    """A pytest session that loads the tests, and runs them in a fork for each mutant."""

    def __init__(self, trial: Trial, mutants: Sequence[Mutant]) -> None:
        self._trial, self._mutants = trial, mutants

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """After conftest.py, before the tests: that one example fails is all that counts, the same each time."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings(), derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        self._loaded = Loaded()
        for mutant in self._mutants:
            self._trial.judge(mutant, self._run)
        return True

    def _run(self, mutant: Mutant | None, tests: Sequence[str]) -> str | None:
        """The test that fails."""
        if mutant is not None:
            self._loaded.change(mutant)
        items = [self._items[name] for name in tests if name in self._items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return item.nodeid
        return None
