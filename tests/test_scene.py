"""What the page draws: every nanosecond of the step is in one slice of its partition and in one cell."""

from functools import cache
from pathlib import Path

import pytest
import reference
from recorded import recorded

from loraprof.analysis.step import scene as module
from loraprof.model.scene import Drawn, Scene
from loraprof.report.export.job import Job
from loraprof.report.page.payload import dots, packed
from loraprof.store.profiles import profiles_dir

GPU = reference.found_in(profiles_dir() / "recordings")


def profiled(job: Job) -> Scene:
    """The last of the scenes: the step as it was recorded."""
    return job.drawn().scenes[-1]


@cache
def drawn(path: Path) -> tuple[Job, Drawn]:
    """What a page draws of a recording, and the analysis it is drawn from; nobody changes it."""
    job = reference.job(path)
    return job, job.drawn()


def scenes() -> list[tuple[Job, Scene]]:
    return [(job, found.scenes[-1]) for job, found in map(drawn, GPU[:2])]


@pytest.mark.parametrize("path", GPU, ids=lambda p: p.stem)
def test_slices_and_cells_are_exactly_the_step(path: Path) -> None:
    job, found = drawn(path)
    scene, step = found.scenes[-1], job.report.step()
    assert step is not None
    assert scene.wall_ns == step.wall_ns == sum(scene.rows[0].ns) == sum(cell.ns for cell in scene.cells)
    for part in step.partition:
        name = part.cause if part.kind == "idle" else None
        cells = [c for c in scene.cells if (c.phase, c.role, c.busy) == (part.phase, part.role, part.kind == "busy")]
        assert part.ns == sum(c.ns for c in cells if name is None or c.name == name) or part.class_ is not None


def test_slices_of_a_row_do_not_overlap_and_stay_inside() -> None:
    for _, scene in scenes():
        for row in scene.rows:
            ends = [start + ns for start, ns in zip(row.start, row.ns, strict=True)]
            assert all(a <= b for a, b in zip(ends, row.start[1:], strict=False))
            assert min(row.start, default=0) >= 0
            assert max(ends, default=0) <= scene.wall_ns


def test_an_idle_slice_blames_the_call_that_launched_what_ended_it() -> None:
    job, scene = scenes()[0]
    row, trace = scene.rows[0], job.analysis.trace
    blamed = [i for i, at in enumerate(row.blame) if at >= 0]
    assert len(blamed) > 100
    for i in blamed[:: len(blamed) // 50]:
        host = scene.rows[row.blame[i] >> 32]
        assert host.group == "host"
        name = scene.names[host.name[row.blame[i] & 0xFFFFFFFF]]
        assert "Launch" in name or "Memcpy" in name or "Memset" in name, name
    assert all(scene.tones[row.tone[i]].startswith("idle:") for i in blamed)
    assert trace.names


@pytest.mark.slow
def test_a_cpu_step_has_no_streams_and_tiles_too() -> None:
    plain, scene = reference.job(recorded("tiny-llama-cpu")).drawn().scenes
    assert plain.rows == []
    assert sum(cell.ns for cell in plain.cells) == plain.wall_ns
    assert {row.group for row in scene.rows} == {"partition", "host"}
    assert sum(scene.rows[0].ns) == scene.wall_ns


def test_too_many_slices_leave_out_the_deepest(monkeypatch: pytest.MonkeyPatch) -> None:
    job, whole = scenes()[0]
    monkeypatch.setattr(module, "MOST", len(job.analysis.trace.device) + 5000)
    less = profiled(job)
    hosts = [sum(len(r.start) for r in s.rows if r.group == "host") for s in (whole, less)]
    assert hosts[0] - hosts[1] == less.left_out > 0
    assert max(r.depth for r in less.rows if r.group == "host") < max(r.depth for r in whole.rows if r.group == "host")


def test_the_roofs_dots_are_sums_of_kernels_and_the_payload_is_small() -> None:
    job = reference.named("llama-3.2-1b")
    known = [k for k in job.report.kernels if k.flops and k.min_bytes and k.total_ns]
    assert sum(dot["ns"] for dot in dots(job.report.kernels)) == sum(k.total_ns for k in known)
    text = packed(job.report, job.drawn())
    assert text == packed(job.report, job.drawn())
    assert len(text) < 900_000


@pytest.mark.parametrize("path", GPU, ids=lambda p: p.stem)
def test_the_step_without_the_profiler_is_the_reports(path: Path) -> None:
    job, found = drawn(path)
    plain, _ = found.scenes
    told = job.report.unprofiled
    assert told is not None
    assert plain.wall_ns == told.wall_ns == sum(plain.rows[0].ns) == sum(cell.ns for cell in plain.cells)
    for kind in ("busy", "idle"):
        ns = sum(part.ns for part in told.partition if part.kind == kind)
        assert ns == sum(cell.ns for cell in plain.cells if cell.busy == (kind == "busy"))
        tones = [plain.tones[tone].startswith("idle:") == (kind == "idle") for tone in plain.rows[0].tone]
        assert ns == sum(n for n, mine in zip(plain.rows[0].ns, tones, strict=True) if mine)
    for row in plain.rows:
        ends = [start + ns for start, ns in zip(row.start, row.ns, strict=True)]
        assert all(a <= b for a, b in zip(ends, row.start[1:], strict=False))
    assert sum(at >= 0 for at in plain.rows[0].blame) > 0
