"""Compiled code, casts, dense changes and reads of values, in numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, case, ledger, values, worths

from loraprof.diagnosis import what_if
from loraprof.diagnosis.findings import adapter, adapter_form, compiled, repeated
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.worth import HostEdit, Worth
from loraprof.model.compilation import Compilation, CompiledReport, CompilePass
from loraprof.model.recording import AdapterSite
from loraprof.model.vocabulary import ROLE, HostKind


def some(**facts: Any) -> Any:
    return SimpleNamespace(**facts)


class Table(SimpleNamespace):
    """Columns of equal length."""

    def __len__(self) -> int:
        return len(self.start)


def spans(*pairs: tuple[int, int], **columns: Any) -> Any:
    start, end = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return Table(start=start, end=end, **{name: np.array(column) for name, column in columns.items()})


def compilation(*timed: int, **fields: Any) -> Compilation:
    one = CompilePass(name="skip", steps=1, compilations=1, recompilations=0, graph_breaks=0, compile_ns=70)
    return Compilation(passes=[one, one], timed_ns=list(timed), **fields)


def test_what_of_a_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of rows 0 to 4: 0, 1 and 3 lie inside, 0 and 3 are calls, 3 is known; one entry has no row."""
    monkeypatch.setattr(compiled, "mixed_ns", lambda *_: 9)
    monkeypatch.setattr(compiled, "_regions", lambda *_: 2)
    flags = {"inside": (0, 1, 3), "call": (0, 3), "known": (3,)}
    rows = some(**{name: np.isin(np.arange(5), at) for name, at in flags.items()})
    roles = ("other", "norm", "norm", "other", "head", "norm", "norm")
    entries = ledger(*((COMPUTE, "forward", role, 0, 10**i) for i, role in enumerate(roles)))
    entries.op, entries.window = np.array([0, 1, 2, 3, 4, -1, 1]), some(start=1000, end=3000)
    entries.busy[6] = False
    busy = some(rows=np.array([0, 1, 3, 5]))

    def report(recording: Any) -> CompiledReport | None:
        analysis: Any = some(attribution=some(compiled=rows), recording=recording)
        return compiled.compiled(analysis, entries, busy)

    plain = report(None)
    assert plain == CompiledReport(
        regions=2, busy_ns=1011, share=1011 / 2000, kernels=2, known_ns=1000, host_ns=10, other_ns=1001, mixed_ns=9,
        recompilations=None, graph_breaks=None, compile_ns=None,
    )  # fmt: skip
    work = some(recompiles=3, graph_breaks=4)
    told, untold = report(some(compilation=compilation(), workload=work)), report(some(compilation=None, workload=work))
    assert told is not None
    assert untold == plain
    assert (told.recompilations, told.graph_breaks, told.compile_ns) == (3, 4, 140)
    entries.window.end = 1000
    empty = report(None)
    assert empty is not None
    assert empty.share == 0


def test_what_compiled_code_leaves_open() -> None:
    def notes(busy_ns: int = 100, found: Compilation | None = None, **figures: int) -> list[str]:
        usual = {"known_ns": 5, "host_ns": 0, "other_ns": 0, "mixed_ns": 0, **figures}
        return compiled.compiled_notes(some(busy_ns=busy_ns, **usual), found)

    assert notes() == notes(0) == compiled.compiled_notes(None, None) == []
    assert compiled.compiled_notes(None, compilation(notes=["x"])) == ["x"]
    assert notes(0, compilation(notes=["x"])) == notes(found=compilation(notes=["x"])) == ["x"]
    assert notes(known_ns=0)[0].startswith("compiled regions carry no modules")
    assert notes(other_ns=25) == ["25.0 % of the time in compiled regions has no role"]
    assert notes(other_ns=25, host_ns=10)[0].endswith("no role, 10.0 % is their own Python between kernels")
    assert notes(mixed_ns=2000)[0].startswith("adapter ops are fused into kernels of other roles (2.00 µs)")


def test_compiling_while_it_should_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(
        inside: tuple[int, int, int] = (0, 0, 1000), recompiles: int | None = 2, breaks: int | None = 0, **facts: Any
    ) -> Seen | None:
        monkeypatch.setattr(compiled, "_inside", lambda _: inside)
        work = some(compiled=facts.pop("compiled", True), recompiles=recompiles, graph_breaks=breaks)
        recording = some(timing=facts.pop("timing", some(samples_ns=[100] * 4)), compilation=facts.pop("found", None))
        return compiled.compiles_in_steps(case(workload=work, recording=recording))

    assert values(seen()) == [2, 0, 0]
    assert seen(recompiles=0) is seen(recompiles=None, breaks=None) is seen(compiled=False) is None
    assert values(seen(recompiles=0, breaks=1)) == [0, 1, 0]
    assert values(seen((1, 50, 1000), compiled=False)) == [None, None, 1, 50, 0.05]
    late, early = seen((1, 50, 1000)), seen((1, 49, 1000))
    assert late is not None
    assert early is not None
    assert (late.severity, early.severity) == ("major", None)
    assert values(seen((1, 50, 0)))[4] == 0
    timed = seen(found=compilation(30, 10, 20, 40))
    assert values(timed) == [2, 0, 0, 0.25, 140]
    assert timed is not None
    assert timed.saved == Worth(20, 10, 40, basis="measured")
    assert timed.severity == "major"
    unknown = seen(found=compilation(30), timing=None)
    assert values(unknown) == [2, 0, 0, 140]
    assert unknown is not None
    assert unknown.severity is None
    reasons = compilation(recompile_reasons=["a", "b", "c"], break_reasons=["in f", "else", "third"])
    told = seen(found=reasons)
    assert values(told) == [2, 0, 0, 140, "a", "b", "in f", "else"]
    assert told is not None
    assert [e.what for e in told.evidence][-2:] == ["a graph is cut", "a graph is cut because"]
    assert values(seen((1, 50, 1000), recompiles=0, found=reasons))[5:] == [140, "in f", "else"]


def test_compilations_inside_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 100 to 200 and of 300 to 400; those at 100 and 390 are inside, the last of them cut off."""
    monkeypatch.setattr(compiled, "compilations", lambda *_: np.arange(5))
    given = case()
    host = spans((90, 120), (100, 105), (200, 250), (390, 420), (400, 500))
    given.analysis.trace = some(host=host)
    given.analysis.attribution.tree = given.analysis.attribution.compiling = None
    given.analysis.marks = some(names=("a", "b"), start=np.array([100, 300]), end=np.array([200, 400]))
    assert compiled._inside(given) == (2, 15, 200)
    given.analysis.marks.names = ("trace",)
    assert compiled._inside(given) == (0, 0, 0)


def test_regions_of_the_forward_pass() -> None:
    scopes = {0: some(backward=False), 1: some(backward=False), 2: some(backward=True), 3: some(backward=False)}
    host = spans((10, 11), (20, 21), (15, 16), (19, 20))
    window: Any = some(window=some(noted_start=10, noted_end=20))
    analysis: Any = some(attribution=some(compiled=some(scopes=scopes)), trace=some(host=host))
    assert compiled._regions(analysis, window) == 2
    analysis.attribution.compiled = None
    assert compiled._regions(analysis, window) == 0


# Casts and dense changes.


def record(**changes: Any) -> Any:
    usual = {"site": 0, "phase": "forward", "role": "adapter.elementwise", "row": 0, "op": "aten::add", "ns": 10}
    more = {"dims": ((5, 8),), "conversion": None, "name": "k"}
    return some(**{**usual, **more, **changes})


def test_casts_that_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "of_rows", lambda *_: lambda step: step.busy)
    weights = []
    monkeypatch.setattr(adapter, "conversions", lambda *_, **options: weights.append(options["weights"]))
    up, down = ("c10::BFloat16", "float"), ("float", "c10::BFloat16")
    cast = record(conversion=up)
    back = record(conversion=down, role="adapter.down")
    rows = ledger((COMPUTE, "forward", "adapter.down", 0, 100), (COMPUTE, "forward", "norm", 0, 10))

    def seen(*records: Any, dtype: str = "float32") -> Seen | None:
        worths(monkeypatch, adapter, Worth(9, 8, 10))
        sites = [some(dtype=dtype, base_dtype="bfloat16"), some(dtype="bfloat16", base_dtype="bfloat16")]
        return adapter.undone_casts(case(records=records, sites=sites, reported=rows))

    assert values(seen(cast, back, back)) == [2, 24 * 80, 100]
    assert weights == [False]
    for other in (
        record(conversion=down, role="adapter.down", dims=((5, 9),)),
        record(conversion=down, role="adapter.down", phase="backward"),
        record(conversion=down, role="adapter.down", site=1),
        record(conversion=up, role="adapter.down"),
        record(conversion=down, role="adapter.up"),
        record(role="adapter.down"),
    ):
        assert seen(cast, other) is None
    assert seen(record(conversion=down), back) is seen(record(conversion=up, role="norm"), back) is None
    assert seen(record(conversion=up, phase="backward"), back) is seen(cast, back, dtype="bfloat16") is None


def test_ops_as_large_as_a_weight() -> None:
    """A layer of 8 inputs and 6 outputs, over 5 tokens."""
    site = AdapterSite(
        path="x", kind="lora", rank=2, in_features=8, out_features=6, dtype="float32", base_dtype="float32"
    )
    base = record(role="base.linear", op="aten::mm", dims=((5, 8), (8, 6)))

    def dense(*rows: Any, known: Any = None, tokens: int | None = None) -> list[int]:
        given = case(records=[base, *rows], sites=[site], workload=some(tokens_per_step=tokens, micro_batches=None))
        given.analysis.attribution.dense = known
        return [r.row for r in adapter_form._dense_rows(given)]

    large = ((6, 8),)
    assert dense(record(dims=large), record(dims=((8, 6),), row=1), record(dims=((3, 6, 8),), row=2)) == [0, 1, 2]
    assert dense(record(dims=((6, 7),)), record(dims=("?",)), record(dims=())) == []
    unlike: list[dict[str, Any]] = [
        {"site": 1},
        {"phase": "optimizer"},
        {"role": "norm"},
        {"op": "aten::mm"},
        {"op": "aten::copy_"},
        {"ns": 0},
    ]
    assert (
        dense(*(record(dims=large, **change) for change in (*unlike, {"op": "aten::t"}, {"op": "aten::empty_like"})))
        == []
    )
    assert dense(record(dims=((5, 6, 8),)), record(dims=large), tokens=6) == []  # may be tokens
    assert dense(record(dims=large, row=1), record(dims=((1, 1),), row=2), known={2}) == [2]
    assert dense(record(dims=large, row=1, phase="backward"), known=set()) == [1]
    base.phase = "backward"
    assert dense(record(dims=large)) == []  # how many tokens there are is not known
    assert dense(record(dims=large), tokens=5) == [0]


def test_changes_built_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [record(row=0), record(row=1, site=1), record(row=2, site=1), record(row=3, phase="backward", site=2)]
    monkeypatch.setattr(adapter_form, "_dense_rows", lambda _: rows)
    monkeypatch.setattr(adapter_form, "like", lambda _, found: len(found))
    monkeypatch.setattr(adapter_form, "of_rows", lambda _, count: count)
    monkeypatch.setattr(adapter_form, "worth", lambda _, count: Worth(count, count - 0.5, count + 0.5))

    def seen(*kinds: str) -> Seen | None:
        sites = [some(kind=kind) for kind in kinds]
        return adapter_form.dense_delta(case(recording=some(sites=sites), spent_ns=lambda found: 10 * len(found)))

    found = seen("lora", "dora", "lora")
    assert values(found) == [2, 3, 30]
    assert found is not None
    assert found.saved == Worth(4, 2.5, 4.5)
    other = seen("lora", "lora", "dora")
    assert other is not None
    assert [one.remedies == other.remedies for one in (found, other)] == [False, True]
    rows[:] = rows[3:]
    assert seen("lora") is None


def test_values_that_the_adapter_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step of 1000 ns from 100 on, without the profiler half as long: reads at 100 and 300, a wait of 40 ns."""
    monkeypatch.setattr(adapter_form, "of_rows", lambda *_: lambda step: step.busy)
    names = ("aten::item", "cudaStreamSynchronize", "aten::mm", "cudaMemcpyAsync")
    item, wait, mm, copy = range(4)
    op, call, down, norm = HostKind.OP, HostKind.RUNTIME, ROLE["adapter.down"], ROLE["norm"]
    rows = [  # start, end, name, kind, role, module
        (99, 120, item, op, down, 0),
        (100, 130, item, op, down, 1),
        (110, 150, wait, call, down, 1),
        (200, 290, wait, call, norm, 1),
        (300, 330, item, op, down, 1),
        (310, 390, wait, op, down, 1),
        (400, 430, item, op, down, -1),
        (500, 530, item, call, down, 1),
        (600, 630, mm, op, down, 1),
        (700, 730, copy, call, down, 1),
        (1100, 1140, item, op, down, 1),
    ]
    start, end, name, kind, role, module = zip(*rows, strict=True)
    given = case(scale=0.5, median=500, on_gpu=True, ledger=some(window=some(noted_start=100, end=1100)))
    given.step = some(ns=lambda cause: 15 if cause == "sync" else 0)
    given.analysis.trace = some(host=spans(*zip(start, end, strict=True), name=name, kind=kind), names=names)
    given.analysis.attribution = some(role=np.array(role), module=np.array(module), paths=("a", "b"))
    assert values(adapter_form.host_sync(given)) == [2, "b", 15]
    given.step = some(ns=lambda cause: 99)
    found = adapter_form.host_sync(given)
    assert values(found) == [2, "b", 20]
    assert found is not None
    assert found.saved == Worth(20, 0, 20)
    given.wall_ns = 2000
    assert adapter_form.host_sync(given) is not None  # a hundredth
    given.wall_ns = 2001
    assert adapter_form.host_sync(given) is None
    given.analysis.on_gpu = False
    on_cpu = adapter_form.host_sync(given)
    assert on_cpu is not None
    assert on_cpu.severity == "minor"


def test_the_line_that_reads() -> None:
    frames = [  # start, end, thread, name
        (0, 1000, 1, "train.py(3): main"),
        (90, 300, 1, "model/block.py(17): forward"),
        (95, 300, 1, "torch/nn/module.py(9): call"),
        (96, 300, 1, "<built-in method item>"),
        (97, 300, 2, "other.py(1): thread"),
        (98, 150, 1, "short.py(1): over"),
        (100, 200, 1, "aten::item"),
    ]
    start, end, thread, names = zip(*frames, strict=True)
    kind = [HostKind.PYTHON] * 6 + [HostKind.OP]
    given = case()
    host = spans(*zip(start, end, strict=True), thread=thread, name=np.arange(7), kind=kind)
    given.analysis.trace = some(host=host, names=names)
    assert repeated._line(given, np.array([6])) == "model/block.py:17"
    host.kind[:6] = HostKind.OP
    assert repeated._line(given, np.array([6])) is None


def test_how_many_changes_are_combined() -> None:
    """Two steps' worth of calls for every set, at most two million in all."""
    host: Any = some(worth=Worth(1, 1, 1, edit=HostEdit(share=0.5)))
    plain: Any = some(worth=Worth(1, 1, 1))
    none: Any = some(worth=None)

    def room(calls: int, *offers: Any) -> int:
        return what_if._room(case(replay=some(role=range(calls))), offers)

    assert room(10**6, plain, none) == 8
    assert [room(n, plain, host) for n in (3906, 3907, 7812, 250_000, 10**7)] == [8, 7, 7, 2, 2]
    assert what_if._room(case(replay=None), [host]) == 8
