"""A recording of a few events, written with the real writer."""

from pathlib import Path

from builders import call, json_of, kernel, op, step, text_of

from loraprof.model.recording import DeviceInfo, Environment, Nvml, Recording, Workload
from loraprof.store.recordings import RecordingWriter

NVML = Nvml(uuid="GPU-0", driver="570.1", steps=3, loop_ns=10**9, samples=[])


def recording() -> Recording:
    return Recording(
        created="2026-01-01T00:00:00Z",
        environment=Environment(loraprof="0.1.0", python="3.11", torch="2.13.0", platform="Linux"),
        device=DeviceInfo(kind="cuda", name="Synthetic GPU"),
        workload=Workload(name="toy", kind="script", argv=["toy.py"]),
    )


def trace_bytes(shift: int = 0) -> bytes:
    """Two steps of one GEMM each."""
    host, device = [], []
    for i in range(2):
        at = shift + 10_000 * (i + 1)
        host += [step(i, at, at + 8000), op("aten::mm", at + 1000, at + 4000)]
        host.append(call("cudaDeviceSynchronize", at + 5000, at + 8000))
        device.append(kernel(at + 3000, at + 6000, (at + 2000, at + 2500)))
    return text_of(json_of(host, device))


def write_recording(target: Path, *, ranks: int = 1, nvml: Nvml | None = None, force: bool = False) -> Path:
    with RecordingWriter(target, force) as writer:
        for rank in range(ranks):
            writer.trace(rank).with_suffix("").write_bytes(trace_bytes(rank))  # rank0.trace.json
        writer.recording(recording())
        if nvml is not None:
            writer.nvml(nvml)
        return writer.commit()
