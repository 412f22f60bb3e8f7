"""The main job as a user runs it: ``loraprof profile``, all passes included, by the clock on the wall."""

from benchmarks.gpu.recorded import recorded
from benchmarks.gpu.results import MainJob, Options
from benchmarks.gpu.shell import timed
from benchmarks.gpu.workload import spec_of, words_of
from loraprof import diagnose

WORKLOAD = "llama-3.2-1b"


def run(options: Options) -> MainJob:
    place = options.out / "raw" / "main-job.loraprof"
    place.parent.mkdir(exist_ok=True)
    spec = spec_of(options, WORKLOAD, {})
    wall_s = timed("profile", "--record", str(place), "--force", *words_of(spec))
    return MainJob(workload=WORKLOAD, wall_s=wall_s, recorded=recorded(place, diagnose(place), options))
