"""How good are the predictions? (full - lora) and (lora - frozen) from the LoRA recording alone against measured arms.

    python benchmarks/predictions.py            # all configurations, one process each, prints a table
    python benchmarks/predictions.py --only 3   # one of them
    python benchmarks/predictions.py --save     # and keeps what is counted in differences.json, for coverage.py

The three arms are built in one process and timed in turn, there and back, without a profiler; then the LoRA arm alone
is recorded as ``loraprof profile`` would, and diagnosed. A prediction hits within 20 % of the measured difference or
4 % of the step; it is covered when the measured difference lies in its interval. Rows marked + were chosen after the
model had been fixed; rows in brackets lie outside full/LoRA ratios of 0.75 to 2.2 and are not counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPT2 = {"config.vocab_size": 4096, "dtype": "float32"}
ROBERTA = {"config.vocab_size": 8192, "dtype": "float32"}
NARROW = {"config.hidden_size": 256, "config.intermediate_size": 688}


@dataclass(frozen=True, slots=True)
class Configuration:
    workload: str
    overrides: dict[str, Any]
    later: bool = False  # chosen after the model had been fixed

    @property
    def label(self) -> str:
        words = (f"{k.split('.')[-1]}={v}" for k, v in self.overrides.items())
        return f"{'+' if self.later else ' '}{self.workload} {' '.join(words)}"


CONFIGURATIONS = (
    Configuration("tiny-llama-cpu", {}),
    Configuration("tiny-llama-cpu", {"rank": 64, "seq": 256}),
    Configuration("tiny-llama-cpu", {"dropout": 0.1}),
    Configuration("tiny-llama-cpu", {"targets": "qv", "accumulate": 2}),
    Configuration("tiny-llama-cpu", {"layers": 2, "config.hidden_size": 1024, "config.intermediate_size": 2752}),
    Configuration("gpt2-xl", {"layers": 4, "config.n_embd": 512, "config.n_head": 8, "batch": 2, "seq": 128, **GPT2}),
    Configuration("roberta-base", {"layers": 3, "batch": 4, "seq": 64, **ROBERTA}),
    Configuration("tiny-llama-cpu", {"seq": 32, "batch": 1}),
    Configuration("tiny-llama-cpu", {"seq": 512, "dropout": 0.1, **NARROW}, True),
    Configuration("tiny-llama-cpu", {"dtype": "bfloat16", "seq": 64}, True),
    Configuration("tiny-llama-cpu", {"dtype": "bfloat16", "seq": 256, "adapter_dtype": "same"}, True),
    Configuration("tiny-llama-cpu", {"checkpointing": "non-reentrant"}, True),
    Configuration("gpt2-xl", {"layers": 4, "config.n_embd": 256, "config.n_head": 4, "batch": 2, "seq": 256, "rank": 32,
                              "dropout": 0.1, **GPT2}, True),
    Configuration("roberta-base", {"layers": 2, "batch": 8, "seq": 64, "config.hidden_size": 256,
                                   "config.intermediate_size": 1024, "config.num_attention_heads": 4, **ROBERTA}, True),
)  # fmt: skip
ARMS = ("full", "lora", "frozen")
COUNTED = (0.75, 2.2)
FULL, FROZEN = "full - lora, ms", "lora - frozen, ms"
KEPT = Path(__file__).with_name("differences.json")


def measure(one: Configuration, rounds: int) -> dict[str, Any]:
    """Medians of the arms, and what the LoRA recording predicts, ns."""
    import msgspec

    import loraprof
    from loraprof.capture.passes.plan import Plan
    from loraprof.capture.passes.session import Session
    from loraprof.capture.ranks.write import Writer
    from loraprof.model.recording import Workload
    from loraprof.store.specs import load_workload
    from loraprof.workloads.build import build

    spec = load_workload(one.workload, one.overrides)
    built = {arm: build(spec, arm) for arm in ARMS}
    samples: dict[str, list[int]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        for _ in range(3):
            built[arm].step()
    for i in range(rounds):
        for arm in ARMS if i % 2 else reversed(ARMS):
            built[arm].step()
            begin = time.perf_counter_ns()
            for _ in range(2):
                built[arm].step()
            samples[arm].append((time.perf_counter_ns() - begin) // 2)
    with Session(Plan(skip=2, timed=max(rounds, 10))) as session:
        while not session.over:
            built["lora"].step()
    workload = Workload(
        name=one.workload,
        kind="builtin",
        argv=[one.workload],
        arm="lora",
        tokens_per_step=built["lora"].tokens_per_step,
        micro_batches=spec.accumulate,
        autocast=spec.autocast,
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "x.loraprof"
        Writer(place, True, lambda text: None).write(session, workload)
        report = loraprof.diagnose(place)
    assert report.timing.unprofiled is not None
    return {
        "measured": {arm: statistics.median(values) for arm, values in samples.items()},
        "adapter": msgspec.to_builtins(report.adapter),
        "now": report.timing.unprofiled.median_ns,
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """Measured and predicted, ns."""

    measured: float
    predicted: float
    low: float
    high: float
    step: float

    @property
    def hit(self) -> bool:
        return abs(self.predicted - self.measured) <= max(0.2 * abs(self.measured), 0.04 * self.step)

    @property
    def covered(self) -> bool:
        return self.low <= self.measured <= self.high

    def row(self, case: str, what: str) -> dict[str, Any]:
        """As ``coverage.py`` reads it, ms."""
        measured, *predicted = (round(ns / 1e6, 2) for ns in (self.measured, self.predicted, self.low, self.high))
        return {"case": case, "what": what, "measured": measured, "predicted": predicted}

    def __str__(self) -> str:
        ms = [f"{x / 1e6:7.1f}" for x in (self.measured, self.predicted, self.low, self.high)]
        return f"{ms[0]} {ms[1]} [{ms[2]},{ms[3]}] {'ok  ' if self.hit else 'MISS'} {'in ' if self.covered else 'out'}"


def differences(result: dict[str, Any]) -> tuple[float, Difference, Difference]:
    """The full/LoRA ratio, (full - lora), (lora - frozen)."""
    m, a, now = result["measured"], result["adapter"], result["now"]
    full, frozen = a["predicted_full_interval"], a["predicted_frozen_interval"]
    more = [full["low"] - now, full["high"] - now]
    less = [now - frozen["high"], now - frozen["low"]]
    return (
        m["full"] / m["lora"],
        Difference(m["full"] - m["lora"], a["predicted_full_ns"] - now, more[0], more[1], step=m["lora"]),
        Difference(m["lora"] - m["frozen"], now - a["predicted_frozen_ns"], less[0], less[1], step=m["lora"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(CONFIGURATIONS[options.one], options.rounds)))
        return
    head = "measured predicted [interval]        hit  cover"
    print(f"{'':60} {'lora':>6} {'full/':>5} | full - lora, ms {'':33} | lora - frozen, ms")
    print(f"{'configuration':60} {'ms':>6} {'lora':>5} | {head:49} | {head}")
    chosen = [options.only] if options.only is not None else range(len(CONFIGURATIONS))
    counted: list[Difference] = []
    rows: list[dict[str, Any]] = []
    failed = 0
    for i in chosen:
        command = [sys.executable, __file__, "--one", str(i), "--rounds", str(options.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed += 1
            print(CONFIGURATIONS[i].label, "failed:", done.stderr.strip().splitlines()[-1])
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        ratio, full, frozen = differences(result)
        inside = COUNTED[0] <= ratio <= COUNTED[1]
        label = CONFIGURATIONS[i].label if inside else f"[{CONFIGURATIONS[i].label[1:]}]"
        counted += [full, frozen] if inside else []
        rows += [one.row(label.strip(), what) for one, what in ((full, FULL), (frozen, FROZEN)) if inside]
        lora = result["measured"]["lora"] / 1e6
        print(f"{label[:60]:60} {lora:6.1f} {ratio:5.2f} | {full} | {frozen}", flush=True)
    if options.save:
        KEPT.write_text("[\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    hits, covered = sum(d.hit for d in counted), sum(d.covered for d in counted)
    print(f"{hits} of {len(counted)} differences hit, {covered} lie in their interval; {failed} configurations failed")


if __name__ == "__main__":
    main()
