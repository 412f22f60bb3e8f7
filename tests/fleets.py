"""Recordings of many simulated ranks, made once per set of options."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
from provoke import CALIBRATION, shaped, timing
from synthetic.fleet import Fleet, save
from synthetic.simulate import Synthetic

from loraprof.analysis.ranks.examine import examine
from loraprof.analysis.ranks.survey import Survey, survey
from loraprof.store.recordings import load_source


@cache
def run(**shape: Any) -> Synthetic:
    """One rank's run, small unless told otherwise, with a calibration and an unprofiled time."""
    one = shaped(**({"comm_ns": 300_000, "hidden": 256, "ffn": 512, "tokens": 256, "layers": 1} | shape))
    return replace(one, recording=msgspec.structs.replace(one.recording, calibration=CALIBRATION, timing=timing(one)))


def fleet(ranks: int, only: tuple[int, ...] | None = None, made: Synthetic | None = None, **options: Any) -> Path:
    """A recording of ``ranks`` ranks of one run; rank 1 is 3 ms late unless told otherwise."""
    place = Path(mkdtemp(prefix="loraprof-")) / "fleet.loraprof"
    return save(Fleet(ranks, **options), made or run(), place, only)


def surveyed(place: Path) -> Survey:
    return survey(map(examine, load_source(place).ranks))
