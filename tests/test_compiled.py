"""Compiled steps through the command line: attribution against the eager step, and that recording changes nothing."""

import json
from collections import Counter
from pathlib import Path
from shutil import copy

import msgspec
import pytest
from provoke import facts, found, toy
from recorded import profiled
from reports import assert_conserved, busy_ns
from warm import python

import loraprof
from loraprof.cli.app import run
from loraprof.model.recording import Recording
from loraprof.model.report import Report
from loraprof.model.vocabulary import ADAPTER_ROLES

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
WAYS = ("whole", "in-place", "blocks", "function", "branch")
PRODUCTS = ("aten::mm", "aten::addmm")


def recorded(way: str) -> Path:
    """A recording of ``scripts/compiled.py``; inductor compiles C++ in some seconds."""
    place = profiled("compiled.py", way, timed=2)
    assert "global hooks" not in (place.parent / "err.txt").read_text()
    return place


def recording(place: Path) -> Recording:
    return msgspec.json.decode((place / "recording.json").read_bytes(), type=Recording)


def products(report: Report) -> Counter[tuple[str, str, str | None]]:
    """Matrix products by role, phase and module."""
    out: Counter[tuple[str, str, str | None]] = Counter()
    for k in report.kernels:
        if k.name in PRODUCTS:
            out[k.role, k.phase, k.module] += k.count
    return out


def test_recording_neither_breaks_graphs_nor_compiles_again() -> None:
    """Frames, graphs, breaks: equal with and without loraprof, while it records, and after it has left."""
    done = python(str(HERE / "dynamo_counts.py"), *WAYS)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = json.loads(done.stdout)
    for way in WAYS:
        without, attached = counted[way]
        assert attached == without, way
        assert without[0]["graphs"] > 0, way
    assert counted["branch"][0][0]["continuations"] > 0
    assert not counted["whole"][0][0]["continuations"]


def test_products_of_compiled_blocks_belong_where_those_of_the_eager_step_do() -> None:
    """Three blocks compiled one by one share graphs that were made from two of them."""
    eager, compiled = loraprof.diagnose(recorded("eager")), loraprof.diagnose(recorded("blocks"))
    assert products(compiled) == products(eager)
    assert sum(products(eager).values()) == (3 * 9 + 1) + (3 * 15 - 2 + 1)  # the first block needs no input gradient
    assert_conserved(compiled)
    made = recording(recorded("blocks"))
    assert {g.backward for g in made.compilation.graphs} == {False, True} if made.compilation else False
    assert not any("_orig_mod" in m.path for m in made.modules)
    assert eager.compiled is None


def test_fused_kernels_carry_the_modules_the_compiler_names(capsys: pytest.CaptureFixture[str]) -> None:
    report = loraprof.diagnose(recorded("blocks"))
    fused = [k for k in report.kernels if "cpp_fused" in k.name]
    gelu = [k for k in fused if "gelu" in k.name]
    blocks = {f"base_model.model.blocks.{i}" for i in range(3)}
    assert {k.role for k in gelu} == {"activation"}
    assert {k.module for k in gelu if k.phase == "forward"} == blocks  # GELU and the sum of the adapted layer before it
    assert {k.phase for k in fused} == {"forward", "backward"}
    made = report.compiled
    assert made is not None
    assert made.regions == 3
    assert made.kernels == sum(k.count for k in fused) + sum(
        n for (_, _, module), n in products(report).items() if module and ".blocks." in module
    )
    assert made.known_ns + made.host_ns == made.busy_ns  # every kernel is known
    assert made.known_ns + made.other_ns >= made.busy_ns
    assert made.mixed_ns > 0
    assert any("adapter ops are fused into kernels of other roles" in note for note in report.closure.notes)
    assert run(["report", str(recorded("blocks")), "--full"]) == 0
    shown = capsys.readouterr().out
    assert "Compiled code" in shown
    assert "regions in the forward pass: 3" in " ".join(shown.split())


def test_compiling_in_the_warm_up_alone_is_no_finding() -> None:
    place = recorded("blocks")
    assert "H3" not in found(place)
    made = recording(place)
    assert (made.workload.compiled, made.workload.recompiles, made.workload.graph_breaks) == (True, 0, 0)
    assert made.compilation is not None
    passes = {p.name: p for p in made.compilation.passes}
    assert passes["skip"].compilations == 2
    assert passes["skip"].compile_ns > 0
    assert all(p.compilations == p.compile_ns == 0 for name, p in passes.items() if name != "skip")
    assert [p.steps for name, p in passes.items() if name.startswith("ProfilerStep#")] == [1, 1]
    assert made.compilation.timed_ns == [0, 0]
    assert recording(recorded("eager")).compilation is None


def test_without_the_compilers_word_shapes_tell_the_adapters_products(tmp_path: Path) -> None:
    made = recording(recorded("blocks"))
    assert made.compilation is not None
    bare = msgspec.structs.replace(made, compilation=msgspec.structs.replace(made.compilation, graphs=[]))
    place = tmp_path / "bare.loraprof"
    place.mkdir()
    copy(recorded("blocks") / "rank0.trace.json.gz", place)
    (place / "recording.json").write_bytes(msgspec.json.encode(bare))
    report = loraprof.diagnose(place)

    def per_role(report: Report) -> Counter[tuple[str, str]]:
        out: Counter[tuple[str, str]] = Counter()
        for (role, phase, _), n in products(report).items():
            if role in (*ADAPTER_ROLES, "base.linear"):
                out[role, phase] += n
        return out

    assert per_role(report) == per_role(loraprof.diagnose(recorded("eager")))
    assert report.compiled is not None
    assert report.compiled.known_ns == 0
    assert any("compiled regions carry no modules" in note for note in report.closure.notes)
    gelu = [k for k in report.kernels if "cpp_fused" in k.name and "gelu" in k.name]
    assert {k.role for k in gelu} == {"activation"}


def test_dropout_in_kernels_of_other_roles_is_seen() -> None:
    """How much of such a kernel is dropout is unknown, so that nothing is known to be at its bound."""
    seen = found(recorded("whole-dropout"))
    assert facts(seen["L4"])["kernels of other roles that draw masks too"] > 0
    assert "G6" not in seen
    report = loraprof.diagnose(recorded("whole-dropout"))
    assert report.compiled is not None
    profiled = report.timing.inflation or 1.0  # the finding's time is without the profiler
    assert facts(seen["L4"])["kernels of other roles that draw masks too"] <= 2 * report.compiled.mixed_ns / profiled
    assert "L4" not in found(recorded("whole"))


def test_recompiling_in_timed_steps() -> None:
    finding = found(toy("recompile"))["H3"]
    seen = facts(finding)
    assert seen["recompilations"] > 0
    assert 0 < seen["compiling, of the timed steps"] < 1
    assert finding.severity == "major"
    assert finding.gain is not None
    assert finding.gain.basis == "measured"
    timed_ns = sorted(recording(toy("recompile")).compilation.timed_ns)  # type: ignore[union-attr]
    assert finding.gain.ns == timed_ns[(len(timed_ns) - 1) // 2]


def test_recompiling_inside_a_profiled_step() -> None:
    """Every third step sees another mode; the dynamo limit of eight is not reached."""
    seen = facts(found(toy("recompile-late"))["H3"])
    assert seen["recompilations"] > 0
    assert seen["graphs compiled inside the profiled steps"] == 1
    assert seen["their time"] > 0
    assert 0 < seen["of the profiled steps"] < 1
    made = recording(toy("recompile-late")).compilation
    assert made is not None
    assert sum(p.recompilations for p in made.passes if p.name.startswith("ProfilerStep#")) == 1
    report = loraprof.diagnose(toy("recompile-late"))
    assert_conserved(report)
    # What the compiler runs while it works is no work of the step.
    ranges = seen["their time"]
    assert max(step.ns(cause="python") for step in report.steps) > ranges > max(busy_ns(step) for step in report.steps)


def test_recompiling_shows_in_a_trace_alone() -> None:
    seen = facts(found(toy("recompile-late") / "rank0.trace.json.gz")["H3"])
    assert seen["graphs compiled inside the profiled steps"] == 1
    assert seen["recompilations"] is None
    assert "H3" not in found(toy("compiled") / "rank0.trace.json.gz")
