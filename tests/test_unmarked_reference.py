"""Calls of a trace that no recording describes: which products are a pair, what a call is."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ledgers import column

from loraprof.analysis.attribution.roles import Behaviour
from loraprof.analysis.attribution.unmarked import adapters, frames
from loraprof.analysis.attribution.unmarked.adapters import ENDS, Pairs, pairs_of
from loraprof.analysis.attribution.unmarked.calls import Calls, Sort, _dims, _said, _sort
from loraprof.analysis.attribution.unmarked.forward import Unmarked
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import NONE, Shapes
from loraprof.model.vocabulary import ROLE

WAYS = ("BDUS", "DUBS", "BDSUS", "BDUSDUS", "BDDUUSS", "BDU", "DUB", "BDUOS", "DBUS")


PRODUCTS = {"B": (16, 16), "D": (16, 4), "U": (4, 16), "W": (16, 5), "X": (0, 16)}


def calls_of(rng: random.Random, layers: int) -> Calls:
    """Layers with adapters in many orders, in which some calls are missing, doubled or other ones."""
    made = [*"".join(rng.choice(WAYS) for _ in range(layers))]
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(made) + 1)
        made[at : at + rng.randrange(2)] = rng.choice("BDUSNOWX")
    size = len(made)
    sorts = [Sort.PRODUCT if m in PRODUCTS else {"S": Sort.ADD, "N": Sort.NORM, "O": Sort.OTHER}[m] for m in made]
    products = np.array([m in PRODUCTS for m in made], np.bool_)
    count = [rng.choice((2,) * 15 + (3,)) for _ in made]
    inner, outer = (column([PRODUCTS.get(m, (0, 0))[i] for m in made]) for i in (0, 1))
    flags = {name: np.zeros(size, np.bool_) for name in Calls.__struct_fields__[7:-1]}
    flags["adds"] = products & np.array([rng.random() < 0.2 for _ in made], np.bool_)
    return Calls(
        row=np.arange(size), run=column(sorted(rng.choices(range(2), (9, 1), k=size))), sort=np.array(sorts, np.int8),
        rows=np.where(products, column(count), 0), inner=inner, outer=outer,
        numel=np.where(products, 0, 16 * column(count)), role=np.zeros(size, np.int8), **flags,
    )  # fmt: skip


class Plain:
    """The search for pairs, in loops."""

    def __init__(self, calls: Calls, ends: list[bool]) -> None:
        self.c = calls
        self.at = [i for i in range(len(calls)) if calls.sort[i] == Sort.PRODUCT and calls.inner[i] > 0]
        self.ends = [e or s in ENDS for e, s in zip(ends, calls.sort.tolist(), strict=True)]

    def open(self, a: int, b: int, sums: bool = False) -> bool:
        low, high = sorted((a, b))
        between = range(low, high)
        return not any(self.ends[i] or (sums and self.c.sort[i] == Sort.ADD) for i in between)

    def adding(self, size: int, after: int) -> int:
        later = (i for i in range(after + 1, len(self.c)) if self.c.sort[i] == Sort.ADD and self.c.numel[i] == size)
        return next(later, len(self.c))

    def chains(self) -> list[tuple[int, int]]:
        c, at = self.c, self.at
        out, taken = list[tuple[int, int]](), set[int]()
        for distance in range(1, 13):
            found = []
            for a in range(len(at) - distance):
                x, y = at[a], at[a + distance]
                narrow = 4 * c.outer[x] <= c.inner[x] and c.inner[y] == c.outer[x] and c.outer[y] >= 4 * c.inner[y]
                free = not {a, a + distance} & taken and c.run[x] == c.run[y] and c.rows[y] <= c.rows[x]
                if narrow and free and self.open(x, y):
                    found.append((a, a + distance))
            out += found
            taken |= {i for pair in found for i in pair}
        return out

    def bases(self, chains: list[tuple[int, int]], free: list[bool]) -> list[int]:
        c, at = self.c, self.at
        base = [NONE] * len(chains)
        for sums, sign, end in ((True, -1, 0), (True, 1, 1), (False, -1, 0)):
            for distance in range(1, 13):
                known = {*base}
                for i, chain in enumerate(chains):
                    b = chain[end] + sign * distance
                    if base[i] != NONE or not 0 <= b < len(at) or not free[b]:
                        continue
                    x, down, up = at[b], at[chain[0]], at[chain[1]]
                    fits = c.run[x] == c.run[down] and c.rows[x] == c.rows[down]
                    fits = fits and c.inner[x] == c.inner[down] and c.outer[x] == c.outer[up]
                    if not sums and not (b in known or self.adding(int(c.rows[x] * c.outer[x]), x) > down):
                        continue
                    if fits and self.open(x, at[chain[end]], sums):
                        base[i] = b
        return base

    def pairs(self) -> list[tuple[int, int, int, int]]:
        c, at, chains = self.c, self.at, self.chains()
        free = [i not in {j for pair in chains for j in pair} for i in range(len(at))]
        base = self.bases(chains, free)
        free = [
            i not in {j for pair, b in zip(chains, base, strict=True) if b != NONE for j in pair}
            for i in range(len(at))
        ]
        again = self.bases(chains, free)
        base = [a if b == NONE else b for a, b in zip(again, base, strict=True)]
        out = []
        for (down, up), b in zip(chains, base, strict=True):
            if b == NONE:
                continue
            later = max(up, b)
            limit = next((at[i] for i in range(later + 1, len(at)) if free[i]), len(c))
            hit = self.adding(int(c.rows[at[up]] * c.outer[at[up]]), at[later])
            if hit < limit and self.open(at[later], hit):
                out.append((at[down], at[up], at[b], hit))
            elif c.adds[at[up]] or (c.adds[at[b]] and b > up):
                out.append((at[down], at[up], at[b], at[later]))
        return out


def test_pairs_of_products() -> None:
    many = 0
    for seed in range(400):
        rng = random.Random(seed)
        calls = calls_of(rng, rng.randrange(4))
        ends = [rng.random() < 0.05 for _ in range(len(calls))]
        found = pairs_of(calls, np.array(ends, np.bool_))
        truth = Plain(calls, ends).pairs()
        rows = zip(found.down.tolist(), found.up.tolist(), found.base.tolist(), found.last.tolist(), strict=True)
        assert [*rows] == truth, seed
        many += len(truth)
        assert found.first.tolist() == [min(row[:3]) for row in truth]
    assert many > 250
    assert adapters.QUARTER == 4


@pytest.mark.parametrize(
    ("op", "tensors", "dims"),
    [
        ("aten::linear", [(2, 3, 5), (7, 5)], (6, 5, 7)),
        ("aten::linear", [(5,), (7, 5)], (0, 0, 0)),
        ("aten::linear", [(3, 5)], (0, 0, 0)),
        ("aten::mm", [(3, 5), (5, 7)], (3, 5, 7)),
        ("aten::mm", [(3,), (5, 7)], (0, 0, 0)),
        ("aten::addmm", [(3, 7), (3, 5), (5, 7)], (3, 5, 7)),
        ("aten::einsum", [(2, 3, 5), (7, 5)], (6, 5, 7)),
        ("aten::matmul", [(2, 5, 5), (5, 5)], (10, 5, 5)),
        ("aten::conv2d", [(2, 3, 8, 8), (4, 3, 5, 5)], (128, 75, 4)),
        ("aten::conv_transpose2d", [(2, 3, 8, 8), (3, 4, 5, 5)], (128, 3, 4)),
        ("aten::conv1d", [(2, 0, 8), (4, 0, 5)], (0, 0, 4)),
        ("aten::conv1d", [(3,), (4, 3, 5)], (0, 0, 0)),
    ],
)
def test_dimensions_of_products(op: str, tensors: list[tuple[int, ...]], dims: tuple[int, int, int]) -> None:
    assert _dims(op, tensors) == dims
    assert _sort(op, tensors) == (Sort.PRODUCT, dims)


@pytest.mark.parametrize(
    ("op", "tensors", "sort", "dims"),
    [
        ("aten::bmm", [(2, 3, 5), (2, 5, 7)], Sort.FREE, (0, 0, 0)),
        ("aten::matmul", [(2, 3, 5), (2, 5, 7)], Sort.FREE, (0, 0, 0)),
        ("aten::matmul", [(2, 3, 5), (5, 7)], Sort.PRODUCT, (6, 5, 7)),
        ("aten::embedding", [(50, 7), (2, 3)], Sort.EMBEDDING, (0, 50, 7)),
        ("aten::embedding", [], Sort.EMBEDDING, (0, 0, 0)),
        ("aten::embedding", [(2, 50, 7)], Sort.EMBEDDING, (0, 0, 0)),
        ("aten::layer_norm", [(50, 7)], Sort.NORM, (0, 0, 0)),
        ("aten::_log_softmax", [(50, 7)], Sort.LOSS, (0, 0, 0)),
        ("aten::_softmax", [(50, 7)], Sort.SOFTMAX, (0, 0, 0)),
        ("aten::gelu", [(50, 7)], Sort.ACTIVATION, (0, 0, 0)),
        ("aten::scaled_dot_product_attention", [(2, 3, 5, 7)] * 3, Sort.CORE, (0, 0, 0)),
        ("aten::add", [(3, 4), (2, 6)], Sort.ADD, (0, 0, 0)),
        ("aten::add", [(3, 4), (3, 1)], Sort.OTHER, (0, 0, 0)),
        ("aten::add", [(3, 4)], Sort.OTHER, (0, 0, 0)),
        ("aten::view", [(3, 4)], Sort.OTHER, (0, 0, 0)),
    ],
)  # fmt: skip
def test_what_a_call_is(op: str, tensors: list[tuple[int, ...]], sort: Sort, dims: tuple[int, int, int]) -> None:
    assert _sort(op, tensors) == (sort, dims)


def said(name: str, *dims: tuple[int, ...]) -> set[str]:
    facts = _said(name, Shapes(dims, ("float",) * len(dims)), Behaviour())
    return {key for key, value in facts._asdict().items() if value is True}


@pytest.mark.parametrize(
    ("op", "dims", "flags"),
    [
        ("aten::addmm", [(3, 7), (3, 5), (5, 7)], {"adds", "flat"}),
        ("aten::addmm", [(1, 7), (3, 5), (5, 7)], {"flat"}),
        ("aten::mm", [(3, 5), (5, 7)], {"flat"}),
        ("aten::linear", [(3, 5), (7, 5)], set()),
        ("aten::matmul", [(2, 3, 5), (5, 7)], set()),
        ("aten::tanh", [(3, 5)], {"composed"}),
        ("aten::relu", [(3, 5)], set()),
        ("aten::to", [(3, 5)], {"cast", "before_norm", "after_norm"}),
        ("aten::pow", [(3, 5)], {"before_norm"}),
        ("aten::mul", [(3, 5), (5,)], {"before_norm", "after_norm", "rotates"}),
        ("aten::mul", [(3, 5), (3, 1)], {"before_norm", "after_norm", "rotates"}),
        ("aten::mul", [(3, 5), (1,)], {"before_norm", "rotates"}),
        ("aten::mul", [(3, 5), (3, 5)], {"before_norm", "rotates"}),
        ("aten::add", [(3, 1)], {"before_norm", "after_norm", "rotates"}),
        ("aten::add", [(3, 5), (5,)], {"after_norm", "rotates"}),
        ("aten::add", [(3, 1), (3, 1)], {"after_norm", "rotates"}),
        ("aten::add", [(3, 5), (3, 5)], {"rotates"}),
        ("aten::view", [(3, 5)], {"view"}),
        ("aten::neg", [(3, 5)], {"negates", "rotates"}),
        ("aten::rsqrt", [(3, 1)], {"rsqrt"}),
    ],
)
def test_what_is_said_of_a_call(op: str, dims: list[tuple[int, ...]], flags: set[str]) -> None:
    assert said(op, *dims) == flags


def test_sizes_of_calls() -> None:
    assert _said("aten::relu", Shapes(((3, 5), (2, 9)), ("float",) * 2), Behaviour()).numel == 18
    assert _said("aten::relu", None, Behaviour()).numel == 0
    facts = _said("aten::linear", Shapes(((3, 5), (7, 5)), ("float",) * 2), Behaviour())
    assert (facts.rows, facts.inner, facts.outer, facts.role) == (3, 5, 7, ROLE["base.linear"])


def test_the_next_sum_of_a_size() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        calls = calls_of(rng, rng.randrange(1, 4))
        sizes, after = rng.choices((32, 48, 7), k=6), rng.choices(range(-1, len(calls)), k=6)
        plain = Plain(calls, [False] * len(calls))
        found = adapters._adding(calls, column(sizes), column(after))
        assert found.tolist() == [plain.adding(size, place) for size, place in zip(sizes, after, strict=True)]


WIDE, DOWN, UP = (3, 16, 16), (3, 16, 4), (3, 4, 16)
UNKNOWN = (0, 0, 0)


@pytest.mark.parametrize(
    ("sizes", "base", "downs", "ups"),
    [
        ([WIDE, DOWN, UP], 0, [1], [2]),
        ([DOWN, UP, WIDE], 2, [0], [1]),
        ([WIDE, DOWN, UP, DOWN, UP], 0, [1, 3], [2, 4]),
        ([WIDE, DOWN, (3, 2, 16), (3, 16, 2), UP], 0, [1, 3], [2, 4]),
        ([WIDE, *[DOWN, UP] * 7], 0, [*range(1, 15, 2)], [*range(2, 15, 2)]),
        ([WIDE, *[DOWN, UP] * 8], None, [], []),
        ([WIDE, DOWN], None, [], []),
        ([WIDE, DOWN, DOWN], None, [], []),
        ([WIDE, DOWN, (3, 2, 16)], None, [], []),  # ranks differ
        ([WIDE, WIDE, DOWN, DOWN, UP], None, [], []),
        ([WIDE, WIDE, WIDE, DOWN, UP], None, [], []),
        ([WIDE, DOWN, UP, DOWN, (3, 8, 8)], None, [], []),
        ([WIDE, (2, 16, 4), (2, 4, 16)], None, [], []),
        ([WIDE, DOWN, (2, 4, 16)], None, [], []),
        ([WIDE, (3, 8, 4), UP], None, [], []),
        ([WIDE, DOWN, (3, 4, 8)], None, [], []),
        ([(3, 16, 4), (3, 4, 32), (3, 16, 32)], 2, [0], [1]),
        ([(3, 16, 5), (3, 5, 32), (3, 16, 32)], None, [], []),  # 5 is more than a quarter of 16
        ([(3, 32, 4), (3, 4, 16), (3, 32, 16)], 2, [0], [1]),
        ([(3, 32, 5), (3, 5, 16), (3, 32, 16)], None, [], []),
        ([UNKNOWN] * 5, 0, [1, 3], [2, 4]),
        ([UNKNOWN] * 7, 0, [1, 3, 5], [2, 4, 6]),
        ([UNKNOWN] * 4, None, [], []),
        ([WIDE, DOWN, UNKNOWN], None, [], []),
        ([], None, [], []),
    ],
)
def test_products_that_are_one_adapted_layer(
    sizes: list[tuple[int, int, int]], base: int | None, downs: list[int], ups: list[int]
) -> None:
    """At every second place; what lies between does not matter, but for what ends a layer."""

    def found(between: Sort, wraps: bool) -> frames._Layer | None:
        rows, inner, outer = (np.array([v for s in sizes for v in (s[i], 0)], np.int64) for i in range(3))
        sort = np.array([Sort.PRODUCT, between] * len(sizes), np.int8)
        calls: Any = SimpleNamespace(sort=sort, rows=rows, inner=inner, outer=outer)
        return frames._layer(calls, [*range(0, 2 * len(sizes), 2)], wraps)

    one = None if base is None else frames._Layer(2 * base, [2 * p for p in downs], [2 * p for p in ups])
    assert found(Sort.OTHER, wraps=True) == one
    assert found(Sort.OTHER, wraps=False) == (None if UNKNOWN in sizes else one)
    assert found(Sort.NORM, wraps=True) is None


def test_frames_say_which_products_are_one_layer() -> None:
    """A wrapper of layers with dropout, a frame with a product of its own, two that make all themselves, and products
    outside all frames. Shapes found the last, and one of those that one frame makes."""
    rows: list[tuple[int, int | str]] = [  # the row around it, and the module that it opens or what it calls
        (-1, 0), (0, 1), (1, 2), (2, "B"), (1, 5), (4, "O"), (1, 3), (6, "D"), (1, 4), (8, "U"), (1, "S"),
        (0, 6), (11, "B"), (11, 7), (13, "D"), (11, 8), (15, "U"), (11, "S"),
        (0, 9), (18, "B"), (18, "D"), (18, "U"), (18, "S"),
        (0, 10), (23, "B"), (23, "D"), (23, "U"), (23, "S"),
        (-1, "B"), (-1, "D"), (-1, "U"), (-1, "S"),
    ]  # fmt: skip
    parent = np.array([up for up, _ in rows], np.int32)
    marker = parent.copy()
    opening = np.array([i for i, (_, what) in enumerate(rows) if isinstance(what, int)])
    marker[opening] = opening
    opens = np.array([what if isinstance(what, int) else NONE for _, what in rows], np.int64)
    called = [(i, what) for i, (_, what) in enumerate(rows) if isinstance(what, str)]
    products = {"B": WIDE, "D": DOWN, "U": UP}
    sizes = np.array([products.get(what, UNKNOWN) for _, what in called], np.int64)
    sorts = [Sort.PRODUCT if what in products else Sort.ADD if what == "S" else Sort.OTHER for _, what in called]
    flags = {name: np.zeros(len(called), np.bool_) for name in Calls.__struct_fields__[7:-1]}
    calls = Calls(
        row=column([i for i, _ in called]), run=column([0] * len(called)), sort=np.array(sorts, np.int8),
        rows=sizes[:, 0], inner=sizes[:, 1], outer=sizes[:, 2], numel=column([48 * (s == Sort.ADD) for s in sorts]),
        role=np.zeros(len(called), np.int8), **flags,
    )  # fmt: skip
    place = {i: n for n, (i, _) in enumerate(called)}
    by_shapes = ((14, 16, 12, 17), (20, 21, 19, 22), (29, 30, 28, 31))  # down, up, base, sum
    pairs = Pairs(*(column([place[i] for i in one]) for one in zip(*by_shapes, strict=True)))

    class Host(SimpleNamespace):
        def __len__(self) -> int:
            return len(rows)

    trace: Any = SimpleNamespace(host=Host(name=np.arange(len(rows))), shapes_of=lambda _: None)
    found = Unmarked(calls, pairs, np.zeros(0, np.int8), column([]), column([]), ())
    classes = ("Model", "LoraLayer", *["Linear"] * 3, "Dropout", "Block", *["Linear"] * 4)
    table = [ModuleInfo(id=i, path=f"m{i}", cls=cls) for i, cls in enumerate(classes)]
    tree: Any = SimpleNamespace(parent=parent)
    placed, sites, left = frames.framed(trace, tree, found, table, opens, marker)
    assert [(m.id, m.site, m.part) for m in placed if m.site is not None] == [
        (1, 0, "wrapper"), (2, 0, "base"), (3, 0, "down"), (4, 0, "up"), (5, 0, "elementwise"),
        (6, 1, "fused"), (7, 1, "down"), (8, 1, "up"), (10, 2, "fused"),
    ]  # fmt: skip
    told = [(s.path, s.how, s.rank, s.in_features, s.out_features) for s in sites]
    assert told[:3] == [(f"m{i}", "observed", 4, 16, 16) for i in (1, 6, 10)]
    assert told[3:] == [(f"adapted layer {i} (16 to 16)", "shapes", 4, 16, 16) for i in (0, 1)]
    assert left.pairs.base.tolist() == [place[19], place[28]]
    assert np.flatnonzero(left.layer != NONE).tolist() == [place[i] for i in (*range(19, 23), *range(28, 32))]


def test_a_layer_adds_its_pairs_or_its_frame_does() -> None:
    """Of 4 x 6: a base at 0, ups at 2 and 3."""

    def summed(adds: list[int], sizes: set[int], inner: int = 5) -> bool:
        one, four = np.ones(4, np.int64), np.arange(4)
        calls: Any = SimpleNamespace(adds=np.isin(four, adds), inner=one * inner, rows=one * 4, outer=one * 6)
        return frames._summed(calls, frames._Layer(0, [1], [2, 3]), sizes)

    assert [summed([at], set()) for at in range(4)] == [True, False, True, True]
    assert (summed([], {24}), summed([], {4, 6}), summed([], set(), inner=0)) == (True, False, True)


@pytest.mark.parametrize(("between", "found"), [(11, 1), (12, 0)])
def test_a_chain_has_its_ends_within_twelve_products(between: int, found: int) -> None:
    widths = [(16, 4), *[(16, 5)] * between, (4, 16)]
    size = len(widths)
    none = np.zeros(size, np.bool_)
    calls = Calls(
        row=np.arange(size), run=column([0] * size), sort=np.full(size, Sort.PRODUCT, np.int8), rows=column([2] * size),
        inner=column([k for k, _ in widths]), outer=column([n for _, n in widths]), numel=column([0] * size),
        role=np.zeros(size, np.int8), **dict.fromkeys(Calls.__struct_fields__[7:-1], none),
    )  # fmt: skip
    down, up = adapters._chains(calls, np.arange(size), column([0] * (size + 1)))
    assert (len(down), len(up)) == (found, found)
