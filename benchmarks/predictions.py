"""How good are the predictions? (full - lora) and (lora - frozen) from the LoRA recording alone against measured arms.

    python benchmarks/predictions.py            # all configurations, one process each, prints a table
    python benchmarks/predictions.py --only 3   # one of them

Arms are interleaved there and back in one process without a profiler; the recording is made afterwards in the same
process. An error counts as a hit within 20 % of the measured difference or 4 % of the step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIGURATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tiny-llama-cpu", {}),
    ("tiny-llama-cpu", {"rank": 64, "seq": 256}),
    ("tiny-llama-cpu", {"seq": 32, "batch": 1}),
    ("tiny-llama-cpu", {"dropout": 0.1}),
    ("tiny-llama-cpu", {"targets": "qv", "accumulate": 2}),
    ("tiny-llama-cpu", {"config.hidden_size": 1024, "config.intermediate_size": 2752, "layers": 2}),
    ("gpt2-xl", {"layers": 4, "config.n_embd": 512, "config.n_head": 8, "config.vocab_size": 4096, "batch": 2, "seq": 128, "dtype": "float32"}),  # noqa: E501
    ("gpt2-xl", {"layers": 3, "config.n_embd": 768, "config.n_head": 12, "config.vocab_size": 4096, "batch": 1, "seq": 64, "dtype": "float32", "dropout": 0.1}),  # noqa: E501
    ("roberta-base", {"layers": 3, "batch": 4, "seq": 64, "dtype": "float32", "config.vocab_size": 8192}),
    ("roberta-base", {"layers": 2, "batch": 1, "seq": 32, "dtype": "float32", "config.vocab_size": 8192}),
)  # fmt: skip
ARMS = ("full", "lora", "frozen")


def measure(name: str, overrides: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Medians of the arms, and the LoRA recording's predictions, ns."""
    import msgspec
    import torch

    import loraprof
    from loraprof.capture.plan import Plan
    from loraprof.capture.save import save
    from loraprof.capture.session import Session
    from loraprof.model.recording import Workload
    from loraprof.store.specs import load_workload
    from loraprof.workloads.build import build

    spec = load_workload(name, overrides)
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
    session = Session(Plan(skip=2, timed=max(rounds, 10)), lambda: None)
    session.install()
    while not session.done:
        built["lora"].step()
    session.remove()
    del torch
    workload = Workload(
        name=name,
        kind="builtin",
        argv=[name],
        arm="lora",
        tokens_per_step=built["lora"].tokens_per_step,
        micro_batches=spec.accumulate,
        autocast=spec.autocast,
    )
    with tempfile.TemporaryDirectory() as folder:
        place = save(session, workload, Path(folder) / "x.loraprof", True, lambda text: None)
        report = loraprof.diagnose(place)
    medians = {arm: statistics.median(values) for arm, values in samples.items()}
    return {"name": name, "overrides": overrides, "measured": medians, "adapter": msgspec.to_builtins(report.adapter),
            "timing": msgspec.to_builtins(report.timing)}  # fmt: skip


def row(result: dict[str, Any]) -> tuple[str, bool, bool]:
    """One line of the table; whether both differences hit, and whether the full interval covers."""
    m, a = result["measured"], result["adapter"]
    now = result["timing"]["unprofiled"]["median_ns"]
    label = result["name"] + " " + " ".join(f"{k.split('.')[-1]}={v}" for k, v in result["overrides"].items())
    cells, hits = [], []
    for truth, predicted in (
        (m["full"] - m["lora"], a["predicted_full_ns"] - now),
        (m["lora"] - m["frozen"], now - a["predicted_frozen_ns"]),
    ):
        error = predicted - truth
        hit = abs(error) <= max(0.2 * abs(truth), 0.04 * m["lora"])
        hits.append(hit)
        cells.append(f"{truth / 1e6:8.2f} {predicted / 1e6:8.2f} {'ok' if hit else 'MISS':>5}")
    interval = a["predicted_full_interval"]
    covered = interval["low"] - now <= m["full"] - m["lora"] <= interval["high"] - now
    ratio = m["full"] / m["lora"]
    return f"{label[:58]:58} {m['lora'] / 1e6:8.2f} {ratio:6.2f} | {' | '.join(cells)}", all(hits), covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(*CONFIGURATIONS[options.one], options.rounds)))
        return
    print(f"{'configuration':58} {'lora ms':>8} {'ratio':>6} | {'full-lora':>8} predicted     | lora-frozen predicted")
    good = covered = 0
    chosen = [options.only] if options.only is not None else range(len(CONFIGURATIONS))
    for i in chosen:
        command = [sys.executable, __file__, "--one", str(i), "--rounds", str(options.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(CONFIGURATIONS[i][0], "failed:", done.stderr.strip().splitlines()[-1])
            continue
        text, hit, inside = row(json.loads(done.stdout.splitlines()[-1]))
        good, covered = good + hit, covered + inside
        print(text, flush=True)
    print(f"{good} of {len(chosen)} within tolerance; the full step's interval covers {covered}")


if __name__ == "__main__":
    main()
