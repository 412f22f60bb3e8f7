"""Bandwidth by nccl-tests' formulas, what LoRA saves of the traffic, what that is worth; each with its near miss."""

from math import prod
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleets import fleet, run
from provoke import facts, found

import loraprof
from loraprof.analysis.prediction.comm_savings import BUCKET_BYTES, SPREAD, MoreCommunication, more_communication
from loraprof.analysis.ranks.communication import ModelBytes, Wire, model_bytes, strategy_of
from loraprof.model.ranks import Communication
from loraprof.model.recording import ModuleInfo, ParameterInfo, Recording, TrainingCost
from loraprof.model.report import Report

COST = TrainingCost(parameters=1, sampled=1, optimizer_ns=200_000, clip_ns=0, accumulate_ns=0)


def trained_bytes() -> int:
    return sum(2 * prod(p.shape) for p in run().recording.parameters if p.trainable)


def frozen_bytes() -> int:
    return sum(2 * prod(p.shape) for p in run().recording.parameters if not p.trainable)


def count() -> int:
    """Collectives of one step of the fleet."""
    return sum(str(e.get("name", "")).startswith("nccl") for e in run().document["traceEvents"]) // 3


def reported(elements: int, **options: Any) -> Report:
    return loraprof.diagnose(fleet(4, elements=elements, **options))


def test_bandwidths_are_those_of_the_rank_that_did_not_wait() -> None:
    """300 us for 8 MB in bf16: 26.7 GB/s, over the bus 3/2 of it among four; the 3 ms of waiting are not in it."""
    report = reported(4_000_000)
    assert report.communication is not None
    (row,) = report.communication.collectives
    assert (row.name, row.group_size, row.count, row.basis) == ("all_reduce", 4, count(), "fastest rank")
    assert row.bytes == count() * 8_000_000
    assert row.transfer_ns == count() * 300_000
    assert row.algorithm_bytes_per_s == pytest.approx(8_000_000 / 300e-6)
    assert row.bus_bytes_per_s == pytest.approx(1.5 * 8_000_000 / 300e-6)


def test_one_rank_alone_says_that_waiting_is_in_it() -> None:
    place = fleet(4)
    report = loraprof.diagnose(place / "rank0.trace.json")
    assert report.communication is not None
    (row,) = report.communication.collectives
    assert row.basis == "this rank"
    assert row.transfer_ns == count() * 300_000 + 3_000_000


def test_what_a_replicated_model_saves() -> None:
    """The adapters' gradients travel; full fine-tuning would send those of the base."""
    report = reported(trained_bytes() // 2 // count())
    sent = report.communication
    assert sent is not None
    assert sent.strategy == "replicated"
    assert sent.reduced_bytes == pytest.approx(trained_bytes(), rel=0.01)
    adapter = sum((s.rank or 0) * (s.in_features + s.out_features) * 2 for s in run().recording.sites)
    assert sent.full_reduced_bytes == frozen_bytes() + trained_bytes() - adapter
    assert sent.saved_bytes == sent.full_reduced_bytes - (sent.reduced_bytes or 0)


def test_tensor_parallel_activations_are_no_gradients() -> None:
    sent = reported(trained_bytes() * 30 // 2 // count()).communication
    assert sent is not None
    assert (sent.strategy, sent.saved_bytes) == (None, None)


def test_what_a_sharded_model_saves_and_what_not() -> None:
    sent = reported(frozen_bytes() // count(), collective="_all_gather_base").communication
    assert sent is not None
    assert (sent.strategy, sent.reduced_bytes) == ("sharded", 0)
    assert sent.gathered_bytes == pytest.approx(2 * frozen_bytes(), rel=0.01)
    assert sent.saved_bytes == sent.full_reduced_bytes


MODEL = ModelBytes(adapter=100, trained=100, frozen=10_000, replaced=0, floating=True)


@pytest.mark.parametrize(
    ("gathered", "reduced", "strategy"),
    [
        (0, 100, "replicated"),
        (0, 10_100, "replicated"),  # frozen only after wrapping: everything is reduced
        (0, 1000, None),
        (0, 0, None),
        (20_000, 100, "sharded"),
        (1000, 100, "replicated"),  # a gather of something small
        (None, None, None),
    ],
)
def test_strategies(gathered: int | None, reduced: int | None, strategy: str | None) -> None:
    assert strategy_of(run().recording, MODEL, gathered, reduced) == strategy


def test_weights_that_a_trained_copy_replaces_are_reduced_once() -> None:
    """PEFT's modules_to_save keeps the original beside the copy; DoRA's magnitudes are the adapter's."""
    one = run().recording
    before = model_bytes(one, 4).base
    assert before is not None
    at = len(one.modules)
    head = [
        ModuleInfo(id=at, path="lm_head.original_module", cls="Linear"),
        ModuleInfo(id=at + 1, path="lm_head.modules_to_save.default", cls="Linear"),
    ]

    def weight(module: int, trainable: bool, part: str | None = None) -> ParameterInfo:
        shape, number = (1000, 8), len(one.parameters) + module
        return ParameterInfo(
            id=number, name="weight", module=module, shape=shape, dtype="bfloat16", trainable=trainable,
            device="cuda:0", part=part,
        )  # fmt: skip

    more = [weight(at, False), weight(at + 1, True), weight(0, True, "elementwise")]
    full = msgspec.structs.replace(one, modules=[*one.modules, *head], parameters=[*one.parameters, *more])
    assert model_bytes(full, 4).base == before + 2 * 8000


def test_the_first_fsdp_shows_one_shard_of_its_parameters() -> None:
    """All ranks' are as many times as many; where their number is not known, this one's is all there is to say."""
    one = run().recording
    wrapped = ModuleInfo(id=len(one.modules), path="fsdp", cls="FullyShardedDataParallel")
    sharded = msgspec.structs.replace(one, modules=[*one.modules, wrapped])
    plain = model_bytes(one, 4)
    assert plain.frozen == frozen_bytes()
    assert (model_bytes(sharded, 4).frozen, model_bytes(sharded, 4).trained) == (4 * plain.frozen, 4 * plain.trained)
    assert model_bytes(sharded, None).frozen == plain.frozen


SENT = Communication(
    collectives=[], exposed_ns=0, overlapped_ns=0, strategy="replicated", reduced_bytes=10,
    full_reduced_bytes=110_000_000, saved_bytes=100_000_000,
)  # fmt: skip


def test_the_time_of_the_gradients_that_are_saved() -> None:
    """100 MB at 10 GB/s of bus bandwidth among 4 ranks: 15 ms, in 4 buckets; a backward of 6 ms hides so much of it."""
    extra, note = more_communication(SENT, Wire(10e9, 4, "fastest rank"), True, 1.0)
    assert note is None
    assert extra is not None
    assert extra.total_ns == pytest.approx(15e6)
    assert extra.pieces == -(-100_000_000 // BUCKET_BYTES) == 4
    assert extra.exposed_ns(6e6) == pytest.approx((9e6, 15e6 * (1 - SPREAD) - 6e6, 15e6 * (1 + SPREAD)))
    assert extra.exposed_ns(1e9)[0] == pytest.approx(15e6 / 4)  # the last bucket has nothing to hide behind


def test_on_a_cpu_nothing_hides_it_and_times_are_unprofiled() -> None:
    extra, _ = more_communication(SENT, Wire(10e9, 4, "fastest rank"), False, 0.5)
    assert extra is not None
    assert extra.exposed_ns(1e9)[0] == pytest.approx(7.5e6)


def test_sharded_gradients_are_scattered() -> None:
    sent = msgspec.structs.replace(SENT, strategy="sharded")
    extra, _ = more_communication(sent, Wire(10e9, 4, "fastest rank"), True, 1.0)
    assert extra is not None
    assert extra.total_ns == pytest.approx(7.5e6)


@pytest.mark.parametrize(
    ("fields", "wire", "said"),
    [
        ({}, None, "no message of this step reaches 1.00 MiB"),
        ({"strategy": None, "saved_bytes": None}, Wire(1e9, 2, "this rank"), "does not show how its gradients"),
    ],
)
def test_what_cannot_be_derived_is_a_note(fields: dict[str, Any], wire: Wire | None, said: str) -> None:
    extra, note = more_communication(msgspec.structs.replace(SENT, **fields), wire, True, 1.0)
    assert extra is None
    assert note is not None
    assert said in note


def test_nothing_saved_is_known_to_be_nothing() -> None:
    extra, note = more_communication(msgspec.structs.replace(SENT, saved_bytes=0), None, True, 1.0)
    assert extra == MoreCommunication(0.0, 1, True)
    assert note is None
    assert more_communication(None, None, True, 1.0) == (None, None)


def predictable(place: Path, ranks: int) -> Report:
    """The recordings with the cost of training, so that full fine-tuning is predicted."""
    for name in ("recording.json", *(f"rank{i}.json" for i in range(ranks))):
        own = msgspec.json.decode((place / name).read_bytes(), type=Recording)
        (place / name).write_bytes(msgspec.json.encode(msgspec.structs.replace(own, training_cost=COST)))
    return loraprof.diagnose(place)


def test_saved_communication_is_part_of_the_prediction() -> None:
    """Adapters so large that their messages show the wire's rate: rank 256 in layers of 2,048."""
    options = {"hidden": 2048, "ffn": 2048, "rank": 256}
    one = run(**options)
    elements = sum(prod(p.shape) for p in one.recording.parameters if p.trainable)
    number = sum(str(e.get("name", "")).startswith("nccl") for e in one.document["traceEvents"]) // 3
    report = predictable(fleet(2, made=one, elements=elements // number), 2)
    sent = report.communication
    assert report.adapter is not None
    assert sent is not None
    assert sent.saved_bytes is not None
    bus = sent.collectives[0].bus_bytes_per_s
    assert bus is not None
    total_ns = sent.saved_bytes / bus * 1e9  # all-reduce of two: the factor is 1
    comm_ns = report.adapter.savings.comm_ns
    assert comm_ns is not None
    assert total_ns / -(-sent.saved_bytes // BUCKET_BYTES) <= comm_ns <= total_ns
    assert "are not counted" not in report.verdict.sentence
    step = report.plain_step() or report.step()
    assert step is not None
    reduced = sum(p.ns for p in step.partition if p.class_ == "comm" and p.phase == "backward")
    frozen = report.adapter.predicted_frozen_interval
    assert frozen is not None
    assert report.adapter.predicted_frozen_ns is not None
    assert 0 < reduced <= report.adapter.predicted_frozen_ns - frozen.low
    none = predictable(fleet(2, made=one, elements=elements // number // 10), 2)
    assert none.adapter is not None
    assert none.adapter.savings.comm_ns is None  # messages of a tenth are too small to tell


def test_small_messages_leave_it_unknown_and_the_verdict_says_so() -> None:
    report = predictable(fleet(2, elements=trained_bytes() // 2 // count()), 2)
    assert report.adapter is not None
    assert report.adapter.predicted_full_ns is not None
    assert report.adapter.savings.comm_ns is None
    assert "of gradients that full fine-tuning also reduces are not counted" in report.verdict.sentence
    assert any("communication saved: " in note for note in report.closure.notes)
    assert "W1" not in {f.id for f in report.findings}


def test_findings_carry_the_bytes_that_lora_saves() -> None:
    place = fleet(4, elements=frozen_bytes() // count(), collective="_all_gather_base", slow=None)
    seen = facts(found(place)["D1"])
    sent = loraprof.diagnose(place).communication
    assert sent is not None
    assert seen["of these LoRA saves"] == sent.saved_bytes
    assert seen["gradient bytes that full fine-tuning would reduce"] == sent.full_reduced_bytes
