"""Findings about several devices, from simulated traces whose collectives carry payloads; each with its near miss."""

from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
from builders import Document
from provoke import advice, facts, found, made, shaped, workload
from synthetic.faults import mapped
from synthetic.simulate import Synthetic

from loraprof.model.recording import ParameterInfo

LARGE = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 1024, "layers": 2}
FROZEN_BYTES = 2 * 2 * (4 * 4096 * 4096 + 2 * 4096 * 11008)  # two layers in bf16


def run(collective: str, elements: int, ns: int = 1_000_000, **shape: Any) -> Synthetic:
    """A step whose collectives (one per adapter parameter) are ``collective`` over ``elements`` bf16 elements."""
    made = shaped(comm_ns=ns, **(LARGE | shape))

    def rename(event: Document) -> Document:
        if not str(event.get("name", "")).startswith("nccl"):
            return event
        args = {"Collective name": collective, "dtype": "BFloat16", "In msg nelems": elements, "Group size": 2}
        return {**event, "name": f"ncclDevKernel_{collective}", "args": event["args"] | args}

    return replace(made, document=mapped(made.document, rename))


def per_step(made: Synthetic) -> int:
    """Collectives of one step: one per adapter parameter."""
    return sum(p.trainable for p in made.recording.parameters)


def test_gathers_of_frozen_weights() -> None:
    calls = per_step(run("allgather", 1))
    elements = FROZEN_BYTES // calls  # in bf16: twice the weights in all
    gathered = run("_all_gather_base", elements, ns=2_000_000)
    seen = facts(found(made(gathered))["D1"])
    assert seen["bytes gathered per step"] == 2 * elements * calls
    assert seen["of it nothing hides"] <= seen["time of the gathers"]
    assert seen["bytes of the frozen weights"] == FROZEN_BYTES
    assert seen["of the step"] > 0.1
    assert "D1" not in found(made(run("_all_gather_base", elements // 4, ns=2_000_000)))  # only part of the model
    assert "D1" not in found(made(run("_all_gather_base", elements, ns=20_000)))  # hidden behind computation
    assert "D1" not in found(made(run("allreduce", elements, ns=2_000_000)))
    assert "D1" not in found(made(gathered, parameters=[]))  # what is frozen is not known
    trained = [msgspec.structs.replace(p, trainable=True) for p in gathered.recording.parameters]
    assert "D1" not in found(made(gathered, parameters=trained))  # nothing is


def test_gathers_are_not_blamed_for_other_messages() -> None:
    """Every twelfth collective gathers, all the weights in all; the others expose as much communication each."""
    one = run("allreduce", 1, ns=2_000_000)
    number = count(1)

    def gather(event: Document) -> Document:
        if not str(event.get("name", "")).startswith("nccl") or next(number) % 12:
            return event
        elements = 12 * FROZEN_BYTES // per_step(one)
        return {**event, "args": event["args"] | {"Collective name": "_all_gather_base", "In msg nelems": elements}}

    assert "D1" not in found(made(replace(one, document=mapped(one.document, gather))))


def test_one_message_per_adapter_tensor() -> None:
    small = run("allreduce", 32_000, ns=300_000)
    layers = len(small.recording.sites)
    assert per_step(small) == 2 * layers
    twice = {**small.document, "traceEvents": [*small.document["traceEvents"], *_again(small.document)]}
    seen = facts(found(made(replace(small, document=twice)))["D2"])
    assert seen["median message"] == 64_000
    assert seen["messages per step"] == 4 * layers
    assert "D2" not in found(made(small))  # two per layer: A and B once each
    assert "D2" not in found(made(run("allreduce", 600_000, ns=300_000)))


def _again(document: Document) -> list[Document]:
    """The collectives a second time, on a stream of their own."""
    comm = [e for e in document["traceEvents"] if str(e.get("name", "")).startswith("nccl")]
    return [{**e, "tid": 99, "args": e["args"] | {"stream": 99}} for e in comm]


def test_flat_parameters() -> None:
    made_run = run("allreduce", 32_000)
    flat = ParameterInfo(
        id=0, name="_flat_param", module=0, shape=(200_000_000,), dtype="bfloat16", trainable=True, device="cuda:0"
    )
    others = [msgspec.structs.replace(p, id=p.id + 1) for p in made_run.recording.parameters]
    seen = facts(found(made(made_run, parameters=[flat, *others]))["D3"])
    assert seen["trained elements in flat parameters"] == 200_000_000
    apart = msgspec.structs.replace(flat, shape=(500_000,))
    assert "D3" not in found(made(made_run, parameters=[apart, *others]))


def test_flat_parameters_that_do_not_show() -> None:
    probe = run("reduce_scatter_base", 1)
    own = sum((s.rank or 0) * (s.in_features + s.out_features) for s in probe.recording.sites)
    seen = found(made(run("_reduce_scatter_base", 30 * own // per_step(probe))))["D3"]
    assert facts(seen)["bytes reduced per step"] > 10 * 4 * own
    assert "trained elements in flat parameters" not in facts(seen)
    assert "fully_shard" in seen.remedy
    assert "D3" not in found(made(run("_reduce_scatter_base", own // per_step(probe))))


def test_reduction_of_the_whole_model() -> None:
    probe = run("allreduce", 1)
    own = sum((s.rank or 0) * (s.in_features + s.out_features) for s in probe.recording.sites)
    calls = per_step(probe)
    seen = facts(found(made(run("allreduce", 30 * own // calls)))["D4"])
    assert seen["bytes of the adapters' gradients, at most"] == 4 * own
    assert seen["bytes reduced per step"] > 10 * 4 * own
    assert "D4" not in found(made(run("allreduce", own // calls)))


def test_a_pipeline_that_waits() -> None:
    waiting = run("send", 1_000_000, ns=5_000_000)
    facts_of = workload(waiting.recording, micro_batches=4)
    seen = facts(found(made(waiting, **facts_of))["D5"])
    assert seen["bubble that they imply"] == 0.2
    assert seen["of the step"] >= 0.2
    quick = run("send", 1_000_000, ns=20_000)
    assert "D5" not in found(made(quick, **workload(quick.recording, micro_batches=4)))
    assert "D5" not in found(made(waiting, **workload(waiting.recording, micro_batches=None)))


def test_communication_that_nothing_hides() -> None:
    """Its own finding only where no other one says why."""
    few = per_step(run("allreduce", 1))
    sent = run("allreduce", 600_000, ns=2_000_000)
    there = found(made(sent))
    assert not {"D1", "D2", "D4", "D5"} & there.keys()
    seen = facts(there["D6"])
    assert seen["of the step"] >= 0.1
    assert seen["most of it in"] == f"all_reduce, {few} per step"
    assert there["D6"].severity == "major"
    assert "bucket_cap_mb" in advice(there["D6"])
    passed = found(made(run("send", 600_000, ns=2_000_000)))["D6"]  # no gradients
    assert advice(passed).endswith("more work per message")
    assert "D6" not in found(made(run("allreduce", 600_000, ns=20_000)))
    assert "D6" not in found(made(run("_all_gather_base", FROZEN_BYTES // few, ns=2_000_000)))  # D1 says why
