"""Runs a program and hands out the three things a test needs: the trace, the recording, the truth."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
from builders import Document, text_of, write

from loraprof.model.recording import DeviceInfo, Environment, ModuleCall, Recording, Workload
from synthetic.kineto import document, head
from synthetic.ledger import StepTruth
from synthetic.machine import Hardware, Machine
from synthetic.program import Program, Trainer


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A simulated run. ``document`` is a decoded Kineto trace, ``truth`` one entry per step."""

    program: Program
    hardware: Hardware
    document: Document
    recording: Recording
    truth: list[StepTruth]

    def save(self, folder: Path, name: str = "synthetic") -> Path:
        """Writes ``NAME.loraprof/`` as a capture would; returns it."""
        target = folder / f"{name}.loraprof"
        target.mkdir(parents=True)
        (target / "recording.json").write_bytes(msgspec.json.format(msgspec.json.encode(self.recording)))
        write(target / "rank0.trace.json.gz", self.document)
        return target


def simulate(program: Program, hardware: Hardware | None = None) -> Synthetic:
    """The run; lately made, it is the same one again, which nobody changes."""
    return _lately(pickle.dumps((program, hardware or Hardware())))


@lru_cache(maxsize=24)
def _lately(asked: bytes) -> Synthetic:
    return simulate_anew(*pickle.loads(asked))


def simulate_anew(program: Program, hardware: Hardware) -> Synthetic:
    events: list[Document] = []
    truth, calls = _run(program, hardware, events.append)
    return Synthetic(program, hardware, document(events, hardware.rocm), recording_of(program, calls, hardware), truth)


def simulate_to(path: Path, program: Program, hardware: Hardware | None = None, events: int = 0) -> int:
    """Writes the trace step by step, until it holds ``events``; returns how many it holds.

    For sizes at which the document would not fit in memory.
    """
    hardware, count = hardware or Hardware(), 0
    with path.open("wb") as out:
        out.write(text_of(head(hardware.rocm))[:-1] + b',"traceEvents":[')

        def emit(event: Document) -> None:
            nonlocal count
            out.write(b",\n"[not count :] + text_of(event))
            count += 1

        machine = Machine(hardware, emit)
        trainer = Trainer(machine, program)
        index = 0
        while count < events or index < program.steps:
            trainer.run_step(index)
            index += 1
        machine.synchronize()
        machine.ledger.finish()
        out.write(b"]}")
    return count


def _run(
    program: Program, hardware: Hardware, emit: Callable[[Document], None]
) -> tuple[list[StepTruth], list[ModuleCall]]:
    machine = Machine(hardware, emit)
    trainer = Trainer(machine, program)
    for index in range(program.steps):
        trainer.run_step(index)
    machine.synchronize()
    machine.ledger.finish()
    return machine.ledger.steps, trainer.calls


def recording_of(program: Program, calls: list[ModuleCall], hardware: Hardware) -> Recording:
    return Recording(
        created="2026-01-01T00:00:00Z",
        environment=Environment(loraprof="0", python="3.11", torch="2.13.0", platform="synthetic"),
        device=DeviceInfo(kind="cuda", name="Synthetic GPU", index=0, sms=100, capability=(9, 0)),
        workload=Workload(name="synthetic", kind="script", argv=["train.py"], tokens_per_step=2048),
        modules=list(program.modules),
        parameters=list(program.parameters),
        sites=list(program.sites),
        calls=calls,
    )
