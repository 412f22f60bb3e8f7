"""The timeline against the partition: the same nanoseconds, piece by piece, in time order without a hole."""

from collections import Counter
from pathlib import Path

import pytest
from builders import comm, kernel, note, op, step, trace_of
from recorded import recorded
from reports import partition, real
from synthetic.randomised import random_run
from synthetic.simulate import simulate_to

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.step.segments import segments
from loraprof.store.kineto.read import read_trace
from loraprof.store.recordings import load_source

REAL = (
    "a100_resnet_ddp_train",
    "v100_resnet_train_ns",
    "mi300_resnet_ddp_actckpt_train",
    "b200_vllm_prefill_eager",
    "a100_event_sync_multistream",
    "noflow_sampled_rank0",
    "a100_cpu_only_rank",
)


def assert_same_time(analysis: Analysis) -> None:
    made = list(segments(analysis))
    expected = [*analysis.steps, *(s for steps in analysis.others.values() for s in steps)]
    assert [m.window.name for m in made] == [s.name for s in expected]
    assert len({m.track for m in made}) == len(made)
    for track, truth in zip(made, expected, strict=True):
        assert track.start.tolist()[1:] == track.end.tolist()[:-1]
        assert (track.end > track.start).all()
        got: Counter[tuple[str, str, str, str]] = Counter()
        labels: Counter[str] = Counter()
        for start, end, label, d in track.rows():
            got[d["kind"], d.get("class") or d["cause"], d["phase"], d["role"]] += end - start
            labels[label] += end - start
        assert got == partition(truth)
        assert sum(got.values()) == truth.wall_ns
        by_label: Counter[str] = Counter()
        for p in truth.partition:
            by_label[p.role if p.kind == "busy" else f"idle: {p.cause}"] += p.ns
        assert labels == +by_label


def test_a_step_by_hand() -> None:
    trace = trace_of(
        host=[step(0, 0, 3000), op("aten::mm", 500, 700)],
        device=[
            kernel(1000, 2000, launch=(50, 100)),
            comm(1500, 2600, launch=(200, 250), stream=20),
            kernel(3500, 4000, launch=(2800, 2900)),
        ],
    )
    (track,) = segments(analyse(trace))
    assert track.track == "ProfilerStep#0 on GPU 0"
    assert [(start, end, label) for start, end, label, _ in track.rows()] == [
        (0, 50, "idle: python"),
        (50, 100, "idle: launch_api"),
        (100, 1000, "idle: launch_latency"),
        (1000, 2000, "other"),
        (2000, 2600, "comm"),
        (2600, 2800, "idle: python"),
        (2800, 2900, "idle: launch_api"),
        (2900, 3500, "idle: launch_latency"),
        (3500, 4000, "other"),
    ]


def test_a_cpu_step_by_hand() -> None:
    trace = trace_of(
        host=[
            note("ProfilerStep#0", 0, 1000),
            note("enumerate(DataLoader)#x", 0, 100),
            op("my::product", 150, 400),
            note("gloo:all_reduce", 380, 700, thread=2),
            op("my::sum", 800, 900),
        ]
    )
    (track,) = segments(analyse(trace))
    assert track.track == "ProfilerStep#0"
    assert [(start, end, label) for start, end, label, _ in track.rows()] == [
        (0, 100, "idle: data"),
        (100, 150, "idle: python"),
        (150, 400, "other"),
        (400, 700, "idle: sync"),
        (700, 800, "idle: python"),
        (800, 900, "other"),
        (900, 1000, "idle: python"),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_random_steps(seed: int, tmp_path: Path) -> None:
    simulate_to(tmp_path / "x.json", *random_run(seed))
    assert_same_time(analyse(read_trace(tmp_path / "x.json")))


@pytest.mark.slow
def test_a_cpu_recording() -> None:
    source = load_source(recorded("tiny-llama-cpu"))
    assert_same_time(analyse(read_trace(source.traces[0]), source.recording))


@pytest.mark.parametrize("name", REAL)
def test_real_traces(name: str) -> None:
    assert_same_time(analyse(read_trace(real(name))))
