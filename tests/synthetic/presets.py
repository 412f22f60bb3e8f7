"""Named runs, each built so that one cause dominates: what a finding for that cause must see."""

from dataclasses import replace

from synthetic.lora import Shape, program
from synthetic.machine import Hardware
from synthetic.program import Program

_SMALL = Shape(layers=2, hidden=512, ffn=1376, tokens=256)
_LARGE = Shape(layers=2, hidden=4096, ffn=11008, tokens=4096, vocab=32000)

PRESETS: dict[str, tuple[Shape, Hardware]] = {
    "launch-bound": (_SMALL, Hardware(api_ns=6000)),
    "bandwidth-v1": (_LARGE, Hardware()),
    "bandwidth-v5": (replace(_LARGE, variant="V5"), Hardware()),
    "dequant-bound": (replace(_LARGE, tokens=256, dequant=True), Hardware()),
    "comm-bound": (replace(_LARGE, comm_ns=20_000_000), Hardware()),
    "data-bound": (_LARGE, Hardware()),
    "sync-in-adapter": (replace(_LARGE, sync_in_adapter=True), Hardware()),
    "frozen": (replace(_LARGE, arm="frozen"), Hardware()),
    "full": (replace(_LARGE, arm="full"), Hardware()),
    "checkpoint": (replace(_LARGE, checkpoint=True), Hardware()),
}


def preset(name: str, steps: int = 3) -> tuple[Program, Hardware]:
    shape, hardware = PRESETS[name]
    made = program(shape, steps)
    if name == "data-bound":
        made = replace(made, load_ns=400_000_000)
    return made, hardware
