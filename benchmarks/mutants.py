"""Would a test notice? Small changes to analysis and diagnosis, one at a time, and the tests that run the changed line.

``python benchmarks/mutants.py [--count N] [--seed N] [--minutes N] [--map FILE]``

Draws N mutants: the edge of a comparison, a sign, an operator, ``and``, ``not``, a number, ``min``. Each meets the
tests that import its module, then those of its room; with ``--map`` those that run its lines, recorded once where the
file is missing. Tests marked slow are left out. Each mutant runs in a fork of a process that holds everything but
loraprof. Prints killed, survived and equivalent (``mutants.toml``), and the survivors' changes.
"""

import argparse
import ast
import copy
import difflib
import importlib
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("loraprof/analysis", "loraprof/diagnosis")
MARKS = "not slow and not gpu and not browser and not stacks"
LOADED = ("numpy", "torch", "msgspec", "rich.console", "typer", "hypothesis", "pytest", "xdist", "peft")
IMPORTS = re.compile(r"loraprof\.(analysis|diagnosis)|provoke import")
WIDE = frozenset(
    (
        *("test_tree.py", "test_growth.py", "test_startup.py", "test_traces.py", "test_selftest.py", "test_places.py"),
        *("test_gpu_parts.py", "test_live_remedies.py", "test_survey.py", "test_selftest_cuda.py", "test_glossary.py"),
    )
)
MOST = 60  # tests of one mutant
LIMIT_S = 120.0  # what takes longer hangs: noticed
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed expression of a file; ``lines`` are those of the original expression."""

    file: str
    lines: range
    text: str

    @property
    def change(self) -> str:
        before = (ROOT / self.file).read_text(encoding="utf-8")
        found = difflib.unified_diff(before.splitlines(), self.text.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in list(found)[2:] if line[0] in "+-")

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, annotations and texts left out."""
    text = path.read_text(encoding="utf-8")
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line.encode()))
    raw = text.encode()
    for node in _expressions(ast.parse(text)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        for changed in _changes(node):
            begin, end = offsets[node.lineno - 1] + node.col_offset, offsets[node.end_lineno - 1] + node.end_col_offset
            new = raw[:begin] + f"({ast.unparse(changed)})".encode() + raw[end:]
            lines = range(node.lineno, node.end_lineno + 1)
            yield Mutant(str(path.relative_to(ROOT)), lines, new.decode())


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _expressions(child)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    new: Any = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            new.ops = [SWAPS[type(op)]()]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            new.op = SWAPS[type(op)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            new = new.operand
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value)):
            new.value = value + 1
        case ast.Constant(value=float(value)):
            new.value = value * 1.3 if value else 0.1
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            new.func.id = NAMES[name]
        case ast.Call(func=ast.Attribute(attr=name)) if name in NAMES:
            new.func.attr = NAMES[name]
        case ast.IfExp():
            new.test = ast.UnaryOp(ast.Not(), new.test)
        case _:
            return
    yield new


class Finder:
    """Gives one module another text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        place = str(ROOT / self.mutant.file)
        return spec_from_file_location(name, place, loader=Loader(name, place, self.mutant.text))


class Loader(SourceFileLoader):
    def __init__(self, name: str, place: str, text: str) -> None:
        super().__init__(name, place)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.text, self.path, "exec")
        return code


class Lines:
    """Which tests run which lines, of a file that ``record`` made."""

    def __init__(self, place: Path) -> None:
        from coverage import CoverageData

        self._data = CoverageData(str(place))
        self._data.read()

    def of(self, mutant: Mutant, dice: random.Random) -> list[str]:
        """Tests that run its lines; of what runs as the module loads, those that run anything of the file."""
        by_line = self._data.contexts_by_lineno(str(ROOT / mutant.file))
        found = {one for line in mutant.lines for one in by_line.get(line, [])} - {""}
        found = found or {one for names in by_line.values() for one in names} - {""}
        names = sorted({name.partition("|")[0] for name in found})
        return names if len(names) <= MOST else dice.sample(names, MOST)


class Imports:
    """Which test files name which modules."""

    def __init__(self) -> None:
        paths = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if _concerned(path)]
        self._texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}

    def of(self, mutant: Mutant, dice: random.Random) -> list[str]:
        """Those that import the module first, then those that import from its room, or provoke findings."""
        room, _, name = mutant.module.rpartition(".")
        own = re.compile(rf"{re.escape(mutant.module)}\b|from {re.escape(room)} import .*\b{name}\b")
        near = re.compile(rf"{re.escape(room)}\b|provoke import")
        first = [path for path, text in self._texts.items() if own.search(text)]
        return first + [path for path, text in self._texts.items() if path not in first and near.search(text)]


def record(place: Path) -> None:
    """Runs the tests once, each line's tests noted."""
    line = [sys.executable, "-m", "pytest", "-n0", "--dist=no", "-m", MARKS, "--cov-context=test", "--cov-report="]
    line += [f"--cov={package.replace('/', '.')}" for package in PACKAGES]
    line += [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if _concerned(path)]
    subprocess.run(line, cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(place)}, check=False)


def _concerned(path: Path) -> bool:
    return path.name not in WIDE and bool(IMPORTS.search(path.read_text(encoding="utf-8")))


def survives(mutant: Mutant, tests: Sequence[str]) -> bool:
    """Whether all tests pass, in a fork."""
    child = os.fork()
    if child == 0:
        _run(mutant, tests)
    handle = os.pidfd_open(child)
    late = not select.select([handle], [], [], LIMIT_S)[0]
    os.killpg(child, signal.SIGKILL) if late else None
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _run(mutant: Mutant, tests: Sequence[str]) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        sys.meta_path.insert(0, Finder(mutant))
        import pytest

        options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", MARKS]
        code = int(pytest.main([*options, *tests]))
    finally:
        os._exit(code)


def equivalent() -> set[tuple[str, str]]:
    """File and change of mutants that are no change."""
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {(one["file"], one["change"].strip()) for one in listed.get("equivalent", [])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--map", type=Path, help="which tests run which lines")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)  # not this folder, whose coverage.py is another
    if options.map and not options.map.exists():
        record(options.map)
    for name in LOADED:
        importlib.import_module(name)
    tests: Lines | Imports = Lines(options.map) if options.map else Imports()
    dice, known = random.Random(options.seed), equivalent()
    every = [one for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for one in mutants(path)]
    drawn, end = dice.sample(every, options.count), time.monotonic() + 60 * options.minutes
    killed = same = done = 0
    for mutant in drawn:
        if time.monotonic() > end:
            break
        done += 1
        chosen = tests.of(mutant, dice)
        if (mutant.file, mutant.change.strip()) in known:
            same += 1
        elif chosen and not survives(mutant, chosen):
            killed += 1
        else:
            where = f"{mutant.file}:{mutant.lines.start}"
            print(f"{where} survived {len(chosen)} tests\n{mutant.change}\n", flush=True)
    print(f"{done} of {len(every):,} mutants: {killed} killed, {done - killed - same} survived, {same} equivalent")
    return 0 if killed >= 0.9 * (done - same) else 1


if __name__ == "__main__":
    sys.exit(main())
