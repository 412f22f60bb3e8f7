"""Measures one cell of a sweep: ``python -m loraprof.runs.sweep.cell JOB.json CELL.json``, a process of its own.

Full and LoRA in turn in this process, then a profile pass of LoRA for the prediction. A cell that cannot run is a
result too.
"""

from msgspec.structs import replace

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.memory import is_out_of_memory
from loraprof.comparison.ratios import ratios_of
from loraprof.diagnosis.load import diagnose
from loraprof.errors import LoraprofError
from loraprof.model.sweep import SweepCell
from loraprof.runs.compare.measure import side_by_side
from loraprof.runs.compare.workers import profile_pass, settings
from loraprof.runs.sweep.cells import CellJob
from loraprof.runs.worker import answer
from loraprof.store.leftovers import scratch
from loraprof.store.specs import load_workload
from loraprof.workloads.models import torch_device

ARMS = ("full", "lora")
TIMED = 20  # unprofiled steps of the profile pass: the prediction starts from their median


def measure_cell(job: CellJob) -> SweepCell:
    """The cell's result, whatever happens short of a bug."""
    try:
        found = _timed(job)
    except LoraprofError as error:
        return SweepCell(values=job.values, status="refused", reason=error.message)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return SweepCell(values=job.values, status="oom", reason=str(error).partition("\n")[0])
    return _predicted(job, found) if job.predict and found.status == "ok" else found


def _timed(job: CellJob) -> SweepCell:
    spec = load_workload(job.workload, job.overrides)
    name = measured(torch_device(spec)).info().name
    timed = side_by_side(spec, ARMS, job.budget_ns, lambda _: None)
    for arm, failure in timed.failed.items():
        return SweepCell(values=job.values, status="oom", reason=f"{arm}: {failure.reason}", device_name=name)
    ratio = ratios_of(timed)[0][0]
    middle = [sorted(timed.series[arm].samples()) for arm in ARMS]
    return SweepCell(
        values=job.values,
        speedup=1 / ratio.ratio,
        low=1 / ratio.high,
        high=1 / ratio.low,
        verdict=ratio.verdict,
        full_ns=middle[0][len(middle[0]) // 2],
        lora_ns=middle[1][len(middle[1]) // 2],
        device_name=name,
        notes=[f"stopped because {timed.stopped}", *timed.notes],
    )


def _predicted(job: CellJob, found: SweepCell) -> SweepCell:
    with scratch() as folder:
        place = folder / "lora.loraprof"
        words = ["--timed", str(TIMED), "--arm", "lora", *settings(job.overrides), job.workload]
        problem = profile_pass(words, place)
        if problem is not None:
            return replace(found, notes=[*found.notes, f"no prediction: {problem}"])
        report = diagnose(place)
    adapter, own = report.adapter, report.timing.unprofiled
    if adapter is None or own is None or adapter.predicted_full_ns is None or adapter.predicted_full_interval is None:
        return replace(found, notes=[*found.notes, "no prediction: the LoRA recording does not allow one"])
    interval = adapter.predicted_full_interval
    return replace(
        found,
        predicted=adapter.predicted_full_ns / own.median_ns,
        predicted_low=interval.low / own.median_ns,
        predicted_high=interval.high / own.median_ns,
    )


if __name__ == "__main__":
    answer(CellJob, measure_cell)
