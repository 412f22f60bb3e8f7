"""The published table: rows that hold together, and an estimate that meets its goals on those it was tuned on."""

import hashlib

import pytest

from benchmarks import published
from loraprof.store.efficiencies import load_rates, rates_of
from loraprof.store.gpus import gpu_files

FILE = published.load()
PUBLIC = [row for row in FILE.row if not row.own]


def test_every_row_names_its_source_once() -> None:
    names = [row.name for row in FILE.row]
    assert len(set(names)) == len(names) >= 60
    assert all(row.source and row.model in FILE.models and row.gpu in gpu_files() for row in FILE.row)
    assert {row.model for row in FILE.row} <= set(FILE.models)


def test_a_third_is_held_out_by_the_hash_of_its_name() -> None:
    held = [row for row in PUBLIC if row.held_out]
    assert 0.2 < len(held) / len(PUBLIC) < 0.45
    assert all(int(hashlib.sha256(row.name.encode()).hexdigest(), 16) % 3 == 0 for row in held)


def test_the_goals_on_the_tuned_rows_and_a_reason_for_every_miss() -> None:
    results = [published.predict(row, FILE.models) for row in PUBLIC if not row.held_out]
    count = len(results)
    assert sum(r.right for r in results) >= published.GOALS["sign right"] * count
    assert sum(r.near for r in results) >= published.GOALS["within 15 %"] * count
    assert sum(r.covered for r in results) >= published.GOALS["covered"] * count
    assert not [line for line in published.misses(results) if "no reason known" in line]
    assert not any("MISSED" in line for line in published.score(results))


def test_what_was_measured_for_the_repository_lies_in_the_intervals() -> None:
    results = [published.predict(row, FILE.models) for row in FILE.row if row.own]
    assert len(results) == 6
    assert all(r.covered and r.right for r in results)


@pytest.mark.parametrize(
    ("published_ratio", "predicted", "right"),
    [(1.2, 1.1, True), (1.2, 0.9, False), (0.9, 0.8, True), (1.01, 0.95, True), (1.01, 1.2, False)],
)
def test_what_a_right_sign_is(published_ratio: float, predicted: float, right: bool) -> None:
    row = published.Published(
        name="x", source="s", model="m", gpu="g", published=published_ratio, of={"arm": "full"}, to={"arm": "lora"}
    )
    assert published.Result(row, predicted, predicted, predicted).right == right


def test_every_rate_has_a_source_and_the_last_that_names_the_gpu_wins() -> None:
    rates = load_rates()
    assert all(rate.source for rate in rates)
    assert {gpu for rate in rates for gpu in rate.gpus} <= set(gpu_files())
    assert rates_of("h100-sxm", rates)["gemm_odd"].value == 0.11
    assert rates_of("a100-80gb-sxm", rates)["gemm_odd"].value == 0.20
