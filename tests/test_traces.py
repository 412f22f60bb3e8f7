"""Real GPU traces of other people's runs: exact partitions, busy time as an independent program found it."""

import json
from pathlib import Path

import numpy as np
import pytest
from reports import diagnosed

from loraprof.analysis.analyse import analyse
from loraprof.store.kineto.read import read_trace

TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"
ORACLE = [json.loads(line) for line in (TRACES / "oracle.jsonl").open()] if TRACES.is_dir() else []
pytestmark = pytest.mark.skipif(not ORACLE, reason="the folder of shared traces is not here")


@pytest.mark.parametrize("truth", ORACLE, ids=lambda t: t["file"].split(".")[0])
def test_busy_time_and_closure(truth: dict[str, object]) -> None:
    analysis = analyse(read_trace(TRACES / str(truth["file"])))
    events = int(truth["kernels"]) + int(truth["memcpy"]) + int(truth["memset"])  # type: ignore[call-overload]
    dropped = analysis.trace.faults.zero_timestamps + analysis.trace.faults.duplicates
    device = analysis.trace.device
    if not dropped:
        counts = np.bincount(device.kind, minlength=3).tolist()
        assert counts == [truth[kind] for kind in ("kernels", "memcpy", "memset")]
        assert len(np.unique(np.stack((device.device, device.stream)), axis=1).T) == truth["streams"]
    assert truth["gpu"] in (None, *(gpu.name for gpu in analysis.trace.gpus))
    assert events - dropped <= len(analysis.trace.device) <= events
    assert analysis.links.kernels_without_launch == truth["gpu_no_launch"]
    if truth["steps"]:
        assert [s.name for s in analysis.steps] == [f"ProfilerStep#{i}" for i in truth["steps"]]  # type: ignore[attr-defined]
    for step in analysis.steps:
        assert sum(p.ns for p in step.partition) == step.wall_ns
    if "gpu_busy_us" in truth:
        ns = sum(s.ns(kind="busy") for s in analysis.steps)
        ns += sum(s.ns(kind="busy") for steps in analysis.others.values() for s in steps)
        assert ns == pytest.approx(1000 * float(truth["gpu_busy_us"]), rel=1e-4)  # type: ignore[arg-type]


def test_the_replay_gate_knows_what_it_can_reproduce() -> None:
    """An eager single-stream step is reproduced to a tenth of a per mille, and so is one whose waits are recorded."""
    eager = diagnosed(TRACES / "a100_resnet_ddp_train.json.gz").replay
    assert eager is not None
    assert eager.accepted
    assert abs(eager.gate_error) < 1e-4
    waiting = diagnosed(TRACES / "a100_alexnet_cudasync.json.gz").replay
    assert waiting is not None
    assert waiting.accepted
    assert abs(waiting.gate_error) < 1e-3


def test_causes_tell_the_traces_apart() -> None:
    """Launch-bound, GPU-bound, and the multi-stream trace that waits on other streams, not on the host."""

    def idle(name: str) -> dict[str, float]:
        step = diagnosed(TRACES / f"{name}.json.gz").step()
        assert step is not None
        return {p: step.ns(cause=p) / step.wall_ns for p in ("python", "framework", "launch_api", "queued")}

    launch_bound = idle("h100_bert_small")
    assert sum(launch_bound.values()) - launch_bound["queued"] > 0.8
    gpu_bound = idle("v100_resnet_train_ns")
    assert sum(gpu_bound.values()) < 0.05
    streams = idle("noflow_sampled_rank0")
    assert streams["queued"] > max(streams["framework"], streams["launch_api"])
