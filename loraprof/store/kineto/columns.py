"""How do rows read in any order become the sorted, duplicate-free columns of a table?

Columns grow in place, so a table is never held twice. Interned values get the
rank of their sorted text, not the order of arrival: the same rows give the same table in whatever order they came.
"""

from array import array
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from loraprof.model.trace import Int32, Int64

Column = npt.NDArray[Any]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class Interner(dict[K, int]):
    """Numbers keys in order of arrival: ``interner[key]``."""

    def __missing__(self, key: K) -> int:
        number = self[key] = len(self)
        return number


class Growing:
    """Columns of one table that grow in place.

    A list of chunks to concatenate would need the memory twice: what small chunks leave behind is not given back.
    """

    def __init__(self, dtypes: Mapping[str, type[np.generic]]) -> None:
        self._columns: dict[str, Column] = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        self._rows = 0

    def add(self, rows: int, **columns: Column | int) -> None:
        """Appends ``rows`` rows; a number stands for a column of that value. Every column must be given."""
        end = self._rows + rows
        for name, column in self._columns.items():
            if end > len(column):
                column.resize(end + end // 8, refcheck=False)
            column[self._rows : end] = columns[name]
        self._rows = end

    def take(self) -> dict[str, Column]:
        """The columns; nothing may be added afterwards."""
        for column in self._columns.values():
            column.resize(self._rows, refcheck=False)
        return self._columns


def int64(values: list[Any]) -> Int64:
    """A column of integers; -1 for whatever is none (or does not fit)."""
    try:
        return np.frombuffer(array("q", values), np.int64)
    except (TypeError, OverflowError):
        return np.array([_integer(value, 63) for value in values], np.int64)


def int32(values: list[Any]) -> Int32:
    """The same in 32 bits."""
    try:
        return np.frombuffer(array("i", values), np.int32)
    except (TypeError, OverflowError):
        return np.array([_integer(value, 31) for value in values], np.int32)


def _integer(value: object, bits: int) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and -(2**bits) <= value < 2**bits else -1


def ranked(
    interner: dict[K, int], value: Callable[[K], V | None], used: list[Column], order: Callable[[V], Any]
) -> tuple[tuple[V, ...], Int32]:
    """The used values in ``order``, and for every interned number its new one (-1: unused, or no value).

    Keys of equal value (a shape written with and without blanks) share a number.
    """
    present = np.zeros(len(interner) + 1, np.bool_)  # the last entry takes -1
    for column in used:
        present[column] = True
    found = {number: value(key) for key, number in interner.items() if present[number]}
    values = {number: item for number, item in found.items() if item is not None}
    table = tuple(sorted(set(values.values()), key=order))
    rank = {item: i for i, item in enumerate(table)}
    renumbered = np.full(len(interner) + 1, -1, np.int32)  # the last entry answers for -1
    for number, item in values.items():
        renumbered[number] = rank[item]
    return table, renumbered


def sort_rows(head: list[Column], rest: list[Column]) -> Int64:
    """Row order by ``head`` and, among rows equal there, by ``rest``; most significant first.

    Few rows tie, so only those pay for the long key.
    """
    order = np.lexsort(head[::-1])
    tied = np.zeros(len(order), np.bool_)
    same = equal_to_previous(head, order)
    tied[1:] = same
    tied[:-1] |= same
    if tied.any():
        rows = order[tied]
        group = np.cumsum(~np.concatenate(([False], same)))[tied]
        order[tied] = rows[np.lexsort([key[rows] for key in rest[::-1]] + [group])]
    return order


def equal_to_previous(keys: list[Column], order: Int64) -> npt.NDArray[np.bool_]:
    """For every row of ``order`` but the first: does it equal the one before it in all ``keys``?"""
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for key in keys:
        ordered = key[order]
        same &= ordered[1:] == ordered[:-1]
    return same
