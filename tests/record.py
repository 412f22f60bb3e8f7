"""Records one shrunken preset in a process of its own: ``python tests/record.py NAME OUT [field=value …]``."""

import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.shrink import shrink
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.save import recording_of
from loraprof.model.recording import Workload
from loraprof.store.recordings import RecordingWriter
from loraprof.store.specs import load_workload
from loraprof.workloads.build import build


def main(name: str, out: Path, overrides: dict[str, str]) -> None:
    arm = overrides.pop("arm", "lora")
    spec = shrink(load_workload(name))
    changes = {k: v.split(",") if k == "targets" else v for k, v in overrides.items()}
    if changes:
        spec = msgspec.convert(msgspec.to_builtins(spec) | changes, type(spec), strict=False)
    built = build(spec, arm)
    session = Session(Plan(skip=1, timed=2, warmup=1, steps=2), lambda: None)
    session.install()
    try:
        while not session.done:
            built.step()
    finally:
        session.remove()
    workload = Workload(name=name, kind="builtin", argv=[name], arm=arm, tokens_per_step=built.tokens_per_step)
    with RecordingWriter(out, force=True) as writer:
        session.profiler.export_chrome_trace(str(writer.trace(0)))
        writer.recording(recording_of(session, workload, calibrate=False))
        writer.commit()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), dict(a.split("=", 1) for a in sys.argv[3:]))
