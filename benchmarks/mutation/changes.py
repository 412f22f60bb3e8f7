"""Small changes to the sources of analysis and diagnosis.

Annotations, declarations, assertions of equal lengths and texts are left out.
"""

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("loraprof/analysis", "loraprof/diagnosis")
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
    """One changed expression of a file; ``lines``: from where its statement begins to where the expression ends, as the
    lines inside a comprehension are not told of every test."""

    file: str
    lines: range
    before: str
    text: str
    loads: frozenset[str] | None  # what the statement defines where it runs as the module loads, None in a function

    @property
    def change(self) -> str:
        found = difflib.unified_diff(self.before.splitlines(), self.text.splitlines(), lineterm="", n=0)
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
    for node, loads, first in _expressions(ast.parse(text), frozenset(), 1):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        for changed in _changes(node):
            begin, end = offsets[node.lineno - 1] + node.col_offset, offsets[node.end_lineno - 1] + node.end_col_offset
            new = raw[:begin] + f"({ast.unparse(changed)})".encode() + raw[end:]
            lines = range(first, node.end_lineno + 1)
            yield Mutant(str(path.relative_to(ROOT)), lines, text, new.decode(), loads)


def _expressions(
    node: ast.AST, loads: frozenset[str] | None, first: int
) -> Iterator[tuple[ast.expr, frozenset[str] | None, int]]:
    """Expressions below a node, with what defines them and the first line of their statement."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        if name == "keywords" and isinstance(node, ast.ClassDef):
            continue
        inside = None if name == "body" and isinstance(node, ast.FunctionDef | ast.Lambda) else loads
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":  # an assertion of equal lengths
                continue
            begin = child.lineno if isinstance(child, ast.stmt) else first
            if isinstance(child, ast.expr):
                yield child, inside, begin
            yield from _expressions(child, inside if inside is None else _defined(child) or inside, begin)


def _defined(node: ast.AST) -> frozenset[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return frozenset({name})
        case ast.Assign(targets=targets):
            return frozenset(ast.unparse(target) for target in targets)
        case ast.AnnAssign(target=target):
            return frozenset({ast.unparse(target)})
    return frozenset()


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
