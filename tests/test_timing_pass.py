"""How many steps are timed, and which count: on a CPU as many as asked for, on a GPU until they are steady."""

from dataclasses import dataclass

import torch

from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.protocol import Device
from loraprof.capture.passes.timing import FEW, LEAST_NS, LONG_NS, MOST, TimingPass
from loraprof.model.recording import Timing

MS = 1_000_000
CPU = torch.device("cpu")


@dataclass
class Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


class Queued(Cpu):
    """A device whose steps cost little, and settle late."""

    asynchronous = True
    clock = "event"


def run(kind: type[Cpu], steps: list[int], wanted: int, settles: bool = True) -> tuple[int, Timing]:
    """Steps it took, and the timing, of steps that last as listed and then as the last one."""
    clock = Clock()
    device: Device = kind(CPU, clock)
    timed = TimingPass(device, wanted, settles, clock)
    timed.stamp()
    done = 0
    while not timed.enough():
        clock.now += steps[min(done, len(steps) - 1)]
        timed.stamp()
        done += 1
    found = timed.timing(skipped=3)
    assert found is not None
    return done, found


def test_a_cpu_times_as_many_steps_as_asked() -> None:
    done, timing = run(Cpu, [20 * MS] * 5 + [10 * MS], 10)
    assert (done, timing.dropped, timing.clock) == (10, 3, "perf_counter_ns")
    assert timing.samples_ns == [20 * MS] * 5 + [10 * MS] * 5


def test_a_gpu_goes_on_for_a_while() -> None:
    step = LEAST_NS // 20
    done, timing = run(Queued, [step], 10)
    assert (done, timing.dropped, timing.clock) == (20, 3, "event")
    assert run(Queued, [LEAST_NS], 10)[0] == 10
    assert run(Queued, [MS], 10)[0] == MOST * 10


def test_a_slow_start_is_dropped_and_made_up_for() -> None:
    slow, steady = 180 * MS, 110 * MS
    steps = [slow + i * MS for i in range(8)] + [steady + i % 3 * MS for i in range(40)]
    done, timing = run(Queued, steps, 20)
    assert done == 28
    assert timing.dropped == 3 + 8
    assert len(timing.samples_ns) == 20
    assert max(timing.samples_ns) < slow


def test_a_queue_that_need_not_settle_times_as_many_as_asked() -> None:
    assert run(Queued, [MS], 4, settles=False)[0] == 4


def test_long_steps_need_be_few() -> None:
    assert run(Queued, [LONG_NS], 10)[0] == FEW
    assert run(Queued, [LONG_NS // 5], 10)[0] == 5


def test_nothing_was_timed() -> None:
    timed = TimingPass(Cpu(CPU), 10)
    assert timed.timing(skipped=3) is None
    timed.stamp()
    assert timed.timing(skipped=3) is None


def test_processor_time_is_taken_beside_the_steps_alone() -> None:
    clock, processor = Clock(), Clock()
    timed = TimingPass(Cpu(CPU, clock), 2, True, clock, processor)
    timed.stamp()
    for step, used in ((10, 4), (30, 6)):
        clock.now, processor.now = clock.now + step * MS, processor.now + used * MS
        timed.stamp()
        processor.now += 100 * MS  # of what is no step
        clock.now += 100 * MS
        timed.again()
    found = timed.timing(skipped=0)
    assert found is not None
    assert found.cores == (4 + 6) / (10 + 30)
