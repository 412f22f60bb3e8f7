"""Columns that grow, integers from whatever a file holds, order and numbers that do not depend on arrival."""

import random
from typing import Any

import numpy as np
import pytest

from loraprof.model.trace import NONE, numbered
from loraprof.store.kineto.columns import Growing, Interner, int32, int64, ranked, sort_rows


def test_columns_grow_in_place() -> None:
    table, rng = Growing({"a": np.int64, "b": np.int8}), np.random.default_rng(0)
    parts = [rng.integers(0, 2**60, n) for n in (0, 1, 3, 1000, 2, 50_000)]
    for part in parts:
        table.add(len(part), a=part, b=-1)
    columns = table.take()
    assert columns["a"].tolist() == np.concatenate(parts).tolist()
    assert columns["b"].tolist() == [-1] * sum(map(len, parts))
    assert (columns["a"].dtype, columns["b"].dtype) == (np.int64, np.int8)  # type: ignore[comparison-overlap]


def test_an_empty_table_has_its_columns() -> None:
    assert {name: c.dtype for name, c in Growing({"a": np.int32}).take().items()} == {"a": np.int32}


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (-3, -3), ("12", 12), ("-4", -4), (5.0, 5), (5.5, -1), (None, -1), ("x", -1), ([], -1), (2**70, -1)],
)
def test_integers_from_odd_values(value: Any, number: int) -> None:
    assert int64([1, value, 2]).tolist() == [1, number, 2]
    assert int32([1, value, 2]).tolist() == [1, number, 2]


def test_what_does_not_fit_is_minus_one() -> None:
    assert int64([2**63 - 1, -(2**63), 2**63]).tolist() == [2**63 - 1, -(2**63), -1]
    assert int32([2**31 - 1, 2**31]).tolist() == [2**31 - 1, -1]


def test_numbers_follow_the_values_not_the_arrival() -> None:
    words = ["pear", "apple", "fig", "unused", "Apple"]
    for seed in range(5):
        order = random.Random(seed).sample(words, len(words))
        names: Interner[str] = Interner()
        for word in order:
            names[word]
        used = np.array([names[w] for w in words if w != "unused"] + [-1])
        table, rank = ranked(names, lambda w: None if w == "fig" else w.lower(), [used], str)
        assert table == ("apple", "pear")
        assert [int(rank[names[w]]) for w in words] == [1, 0, -1, -1, 0]
        assert rank[-1] == -1


def test_rows_sort_by_all_keys_in_turn() -> None:
    rng = np.random.default_rng(1)
    keys = [rng.integers(0, 4, 500) for _ in range(4)]
    order = sort_rows(keys[:2], keys[2:])
    assert sorted(order.tolist()) == list(range(500))
    rows = [tuple(int(k[i]) for k in keys) for i in order]
    assert rows == sorted(rows)
    assert sort_rows([np.zeros(0, np.int64)], []).tolist() == []


def test_equal_rows_have_one_number() -> None:
    rng = np.random.default_rng(2)
    columns = rng.integers(NONE, 4, 500), rng.integers(NONE, 2, 500).astype(np.int32), rng.random(500) < 0.5
    rows = [*zip(*(column.tolist() for column in columns), strict=True)]
    known = dict(zip(rows, numbered(*columns).tolist(), strict=True))
    assert numbered(*columns).tolist() == [known[row] for row in rows]
    assert len(set(known.values())) == len(known) == len(set(rows))
    assert numbered(np.zeros(0, np.int8)).tolist() == []
