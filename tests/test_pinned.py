"""Everything the analysis says of simulated steps of every kind stays as it is, until someone means to change it.

The values are not claimed to be right here: other tests do. ``LORAPROF_GOLDEN=write`` pins them anew; findings are kept
in words, so that a change can be read, the rest as a digest per section. Numbers count to six digits.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleets import fleet
from golden_files import assert_golden
from provoke import made, shaped, synthetic, workload
from synthetic.faults import events, on_gpu, without
from synthetic.presets import PRESETS
from synthetic.randomised import random_run
from synthetic.simulate import Synthetic, simulate

from loraprof.model.recording import Memory
from loraprof.report.export.job import Job
from loraprof.store.recordings import load_source

LARGE: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 32000}


def random(seed: int) -> Path:
    return made(simulate(*random_run(seed)))


def bare(run: Synthetic) -> Path:
    """The trace alone."""
    return made(run) / "rank0.trace.json.gz"


def on_cpu(run: Synthetic) -> Path:
    """The host's part of the trace, as of a step on a CPU."""
    gone = [e for e in events(run.document) if on_gpu(e) or e["cat"] == "cuda_runtime"]
    device = msgspec.structs.replace(run.recording.device, kind="cpu", name="CPU", capability=None)
    return made(replace(run, document=without(run.document, *gone)), device=device)


def trained(run: Synthetic) -> Path:
    """With what a recording may know besides."""
    facts = workload(run.recording, tokens_per_step=4096, real_tokens_per_step=3000, micro_batches=2)
    return made(run, memory=Memory(peak_bytes=80, reserved_bytes=97, total_bytes=100, allocator_retries=1), **facts)


KINDS: dict[str, Callable[[], Path]] = {
    **{name: lambda name=name: made(synthetic(name)) for name in PRESETS},  # type: ignore[misc]
    **{f"random-{seed}": partial(random, seed) for seed in range(8)},
    "trace-v1": lambda: bare(synthetic("bandwidth-v1")),
    "trace-v5": lambda: bare(synthetic("bandwidth-v5")),
    "trace-random": lambda: bare(simulate(*random_run(5))),
    "cpu": lambda: on_cpu(synthetic("bandwidth-v1")),
    "cpu-trace": lambda: on_cpu(synthetic("checkpoint")) / "rank0.trace.json.gz",
    "facts": lambda: trained(shaped(**LARGE)),
    "ranks": lambda: fleet(4),
}


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
    return blake2b(json.dumps(rounded(value), sort_keys=True).encode(), digest_size=8).hexdigest()


def said(finding: dict[str, Any]) -> Iterator[str]:
    gain = finding["gain"]
    worth = " ".join(f"{gain[key]:.6g}" for key in ("ns", "speedup", "low", "high")) if gain else "-"
    yield f"  {finding['id']} {finding['severity']} {worth}: {finding['title']}"
    for one in finding["evidence"]:
        yield f"    {one['what']}: {rounded(one['value'])} {one['unit']}".rstrip()
    for remedy in finding["remedies"]:
        yield f"    > {remedy['kind']} {digest(remedy)} {remedy['text']}"


def pinned(name: str, place: Path) -> Iterator[str]:
    job = Job(partial(load_source, place))
    report = msgspec.to_builtins(job.report)
    yield name
    for section, value in report.items():
        if section == "findings":
            for finding in value:
                yield from said(finding)
        elif section != "source" and value not in (None, []):
            yield f"  {section} {digest(value)}"
    for i, scene in enumerate(job.drawn().scenes):
        yield f"  scene {i} {digest(msgspec.to_builtins(scene))}"


@pytest.mark.parametrize("name", KINDS)
def test_a_report_stays_as_it_is(name: str) -> None:
    assert_golden(f"pinned/{name}.txt", "\n".join(pinned(name, KINDS[name]())) + "\n")
