"""Which test runs which lines: recorded once, kept in a file, and later only what changed."""

import ast
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutation.changes import PACKAGES, ROOT, Mutant

MARKS = "not slow and not gpu and not browser and not stacks"
OPTIONS = ("-q", "--disable-warnings", "-n0", "--dist=no", "-p", "no:cacheprovider", "-m", MARKS)
WIDE = (  # whole programs, or the tree of sources: nothing of one line
    *("tree", "package", "growth", "startup", "traces", "selftest", "places", "gpu_parts", "live_remedies"),
    *("selftest_cuda", "glossary", "page_browser", "kills", "leftovers", "mutation", "processes", "profile", "fix"),
)
LONGEST_S = 2.0  # of one test
NUMBERS = "tests/test_findings_limits.py::test_the_numbers_of_rules_and_of_what_helps"  # of all rooms, as they load
BUDGET_S = 5.0  # of all tests of a mutant, of processor time as the map tells it
QUICK_S = 0.02
LIMIT_S = 40.0  # of processor time, whole reports included
WHOLE = "tests/test_kinds.py::test_a_report_is_exact"  # of steps of every kind: all of a report, beyond the budget


class Map:
    """Which test runs which lines of which file, and its seconds of processor time."""

    def __init__(self, place: Path) -> None:
        found = Recorded.read(place)
        self.seconds = {name: s for name, s in found.seconds.items() if s <= LONGEST_S}
        self._files = found.files

    def of(self, mutant: Mutant) -> list[str]:
        """Those that run its lines, then others of their files, within ``BUDGET_S``: those named after its function
        first, the quick ones, then those of a file whose name shares words with the module's. Whole reports come
        last."""
        if mutant.loads is None:
            first = self._running(mutant.file, mutant.lines)
        else:
            named = re.compile("|".join(rf"\b{re.escape(one.rpartition('.')[2])}\b" for one in mutant.loads) or "$^")
            first = self._running(mutant.file, _bodies(mutant))  # a default's change shows in its function
            for file in self._files:
                lines = enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1)
                first |= self._running(file, [n for n, line in lines if named.search(line)])
        first = first or self._running(mutant.file, self._files.get(mutant.file, {}))
        first |= {NUMBERS} & self.seconds.keys() if mutant.loads is not None else set()
        near = {name.partition("::")[0] for name in first}
        more = {name for name in self.seconds if name.partition("::")[0] in near} - first
        room, asked = _words(mutant.file), _words(_function(mutant))

        def worth(name: str) -> tuple[bool, bool, bool, bool, int, float, str]:
            return (
                mutant.loads is None and name not in first,
                name != NUMBERS,
                not asked or not asked <= _words(name.partition("::")[2]),
                self.seconds[name] > QUICK_S,
                -len(room & _words(name.partition("::")[0])),
                self.seconds[name],
                name,
            )

        chosen, left = list[str](), BUDGET_S
        whole = [name for name in first if name.startswith(WHOLE)]
        for name in sorted((first | more).difference(whole), key=worth):
            left -= self.seconds[name]
            if left < 0:
                break
            chosen.append(name)
        return chosen + sorted(whole, key=worth)

    def _running(self, file: str, lines: Any) -> set[str]:
        found = self._files.get(file, {})
        return {name for line in lines for name in found.get(line, ())} & self.seconds.keys()


def _bodies(mutant: Mutant) -> list[int]:
    """Lines of the functions and classes that the changed statement defines."""
    nodes = [node for node in ast.walk(ast.parse(mutant.before)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    defined = [node for node in nodes if node.name in (mutant.loads or ())]
    return [n for node in defined for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)]


def _function(mutant: Mutant) -> str:
    """Name of the function around the change."""
    nodes = [node for node in ast.walk(ast.parse(mutant.before)) if isinstance(node, ast.FunctionDef)]
    around = [node.name for node in nodes if node.lineno <= mutant.lines.start <= (node.end_lineno or 0)]
    return around[-1] if around else ""


def _words(path: str) -> set[str]:
    return set(re.findall("[a-z]+", path.removesuffix(".py"))) - {"loraprof", "analysis", "diagnosis", "tests", "test"}


@dataclass
class Recorded:
    """``files``: by source file and line, the tests that run it. ``texts``: the sources then; ``digests`` of tests."""

    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Path) -> "Recorded":
        """The lines as they are numbered now; those that were changed have the tests of those they replace."""
        if not place.exists():
            return cls()
        raw = json.loads(place.read_text(encoding="utf-8"))
        names = list(raw["seconds"])
        found = cls(raw["seconds"], {}, {}, raw["digests"])
        for file, lines in raw["files"].items():
            path = ROOT / file
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            changes = SequenceMatcher(None, raw["texts"][file].splitlines(), text.splitlines(), False).get_opcodes()
            ran = {int(n): {names[i] for i in at} for n, at in lines.items()}
            now = dict[int, list[str]]()
            for tag, a, b, c, d in changes:
                every = sorted(set[str]().union(*(ran.get(n, ()) for n in range(a + 1, b + 1))))
                now |= {c + i + 1: sorted(ran.get(a + i + 1, ())) if tag == "equal" else every for i in range(d - c)}
            found.files[file] = now
            found.texts[file] = text
        return found

    def write(self, place: Path) -> None:
        at = {name: i for i, name in enumerate(self.seconds)}
        files = {
            file: {n: [at[one] for one in ones] for n, ones in lines.items()} for file, lines in self.files.items()
        }
        raw = {"seconds": self.seconds, "files": files, "texts": self.texts, "digests": self.digests}
        place.write_text(json.dumps(raw), encoding="utf-8")

    def without(self, paths: Iterable[str]) -> "Recorded":
        """What is known of tests of other files than these."""
        gone = set(paths)

        def stays(name: str) -> bool:
            return name.partition("::")[0] not in gone

        return Recorded(
            {name: s for name, s in self.seconds.items() if stays(name)},
            {f: {n: [*filter(stays, names)] for n, names in lines.items()} for f, lines in self.files.items()},
            self.texts,
            {path: digest for path, digest in self.digests.items() if path not in gone},
        )


class Recorder:
    """Runs the tests once and notes which lines each runs."""

    def __init__(self) -> None:
        from coverage import Coverage

        self._coverage = Coverage(data_file=None, config_file=False, include=[f"{ROOT}/{one}/*" for one in PACKAGES])
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        self._coverage.start()
        result = yield
        self._coverage.stop()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        begin = time.process_time()
        result = yield
        self._seconds[item.nodeid] = round(time.process_time() - begin, 4)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def add_to(self, found: Recorded) -> None:
        passed = {name: s for name, s in self._seconds.items() if name not in self._failed}
        found.seconds |= passed
        data = self._coverage.get_data()
        for path in sorted(data.measured_files()):
            file = str(Path(path).relative_to(ROOT))
            lines = found.files.setdefault(file, {})
            found.texts[file] = Path(path).read_text(encoding="utf-8")
            for n, names in data.contexts_by_lineno(path).items():
                lines[n] = sorted({*lines.get(n, ()), *(passed.keys() & names)})


def record(place: Path) -> None:
    """Runs the tests of the files that are not in the map as they are now."""
    paths = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if path.stem.removeprefix("test_") not in WIDE]
    digests = {str(path.relative_to(ROOT)): blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in paths}
    found = Recorded.read(place)
    stale = [path for path, digest in digests.items() if found.digests.get(path) != digest]
    if not stale:
        return
    found, recorder = found.without({*stale, *(found.digests.keys() - digests.keys())}), Recorder()
    pytest.main([*OPTIONS, *stale], plugins=[recorder])
    recorder.add_to(found)
    found.digests = digests
    found.write(place)
