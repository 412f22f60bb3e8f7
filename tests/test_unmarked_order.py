"""Roles of calls that no recording describes, by the order in which a model makes them."""

from typing import Any

import numpy as np
from ledgers import column

from loraprof.analysis.attribution.unmarked import order
from loraprof.analysis.attribution.unmarked.adapters import Pairs
from loraprof.analysis.attribution.unmarked.calls import Calls, Sort
from loraprof.model.vocabulary import ROLE, ROLES

WORDS = 50


def ordered(*rows: tuple[Any, ...], run: list[int] | None = None, pairs: Pairs | None = None) -> list[str]:
    """Roles of calls (sort, (rows, inner, outer), elements, flags), "" where the name alone would tell."""
    size = len(rows)
    sizes = [row[1] if len(row) > 1 else (0, 0, 0) for row in rows]
    columns: dict[str, Any] = {
        name: column([one[i] for one in sizes]) for i, name in enumerate(("rows", "inner", "outer"))
    }
    columns["numel"] = column([row[2] if len(row) > 2 else 7 for row in rows])
    names = Calls.__struct_fields__[7:-1]
    flags: dict[str, Any] = {name: np.array([name in row[3:] for row in rows], np.bool_) for name in names}
    sorts = np.array([row[0] for row in rows], np.int8)
    said = np.full(size, ROLE["other"], np.int8)
    calls = Calls(row=np.arange(size), run=column(run or [0] * size), sort=sorts, role=said, **columns, **flags)
    nothing = column([])
    pairs = pairs or Pairs(nothing, nothing, nothing, nothing)
    roles = order.roles_in_order(calls, pairs, np.zeros(size, np.bool_))
    return ["" if r == ROLE["other"] else ROLES[r] for r in roles.tolist()]


def product(k: int, n: int) -> tuple[Any, ...]:
    return Sort.PRODUCT, (4, k, n)


TABLE: tuple[Any, ...] = (Sort.EMBEDDING, (0, WORDS, 8))


NORM, CORE, LOSS_OP, OTHER, ADD = (Sort.NORM,), (Sort.CORE,), (Sort.LOSS,), (Sort.OTHER,), (Sort.ADD,)


TURN, TURNED = (Sort.OTHER, (0, 0, 0), 7, "negates", "rotates"), (Sort.OTHER, (0, 0, 0), 7, "rotates")


TANH, TIMES = (Sort.ACTIVATION, (0, 0, 0), 128, "composed"), (Sort.OTHER, (0, 0, 0), 128)


BASE = "base.linear"


def test_roles_in_the_order_of_a_model() -> None:
    layer = [NORM, product(8, 8), product(8, 8), product(8, 8), TURN, TURNED, OTHER, CORE, OTHER, product(8, 8), ADD]
    network = [NORM, product(8, 32), TIMES, TANH, TIMES, OTHER, product(32, 8), ADD]
    made = ordered(TABLE, *layer, *network, NORM, product(8, WORDS), OTHER, LOSS_OP, OTHER)
    assert made == [
        "embedding", "norm", BASE, BASE, BASE, "position", "position", "attention", "attention", "attention", BASE, "",
        "norm", BASE, "activation", "activation", "activation", "", BASE, "", "norm", "head", "loss", "loss", "loss",
    ]  # fmt: skip
    plain = [OTHER if one is TURN else one for one in layer]
    assert ordered(TABLE, *plain)[5:10] == ["attention"] * 5  # nothing is negated: no rotation
    assert ordered(*layer, run=[0] * 7 + [1] * 4)[4:10] == [""] * 3 + ["attention", "attention", BASE]


def test_an_adapted_layer_from_the_view_before_its_base_to_the_cast_after_its_sum() -> None:
    view, cast = (Sort.OTHER, (0, 0, 0), 7, "view"), (Sort.OTHER, (0, 0, 0), 7, "cast")
    base, pair = (*product(8, 8), 7, "flat"), Pairs(*map(column, ([2], [4], [1], [5])))
    rows = [view, base, product(8, 2), OTHER, product(2, 8), ADD, cast, cast]
    layer = [BASE, BASE, "adapter.down", "adapter.elementwise", "adapter.up", *["adapter.elementwise"] * 2, ""]
    assert ordered(*rows, pairs=pair) == layer
    assert ordered(*rows, pairs=pair, run=[0] * 6 + [1, 1])[5:] == ["adapter.elementwise", "", ""]
    assert ordered(OTHER, *rows[1:], pairs=pair)[0] == ordered(view, product(8, 8), *rows[2:], pairs=pair)[0] == ""
    assert ordered(*rows[:6], pairs=pair) == layer[:6]
    first = Pairs(*map(column, ([1], [3], [0], [4])))
    assert ordered(*rows[1:6], view, pairs=first)[-1] == ""


def test_what_lies_between_products_of_one_input_is_no_attention() -> None:
    """Queries and keys of one input have nothing between them that ends it; a norm does."""
    apart = ordered(product(8, 8), TURNED, NORM, product(8, 8), TURNED, CORE, OTHER, product(8, 8))
    assert apart == [BASE, "", "norm", BASE, "attention", "attention", "attention", BASE]
    wider = ordered(product(16, 8), TURNED, product(8, 8), TURNED, CORE)
    assert wider == [BASE, "", BASE, "attention", "attention"]
    alike = ordered(product(8, 8), TURNED, product(8, 8), TURNED, CORE)
    assert alike == [BASE, "attention", BASE, "attention", "attention"]


def test_attention_written_as_two_products() -> None:
    free, soft = (Sort.FREE,), (Sort.SOFTMAX,)
    made = ordered(product(8, 8), OTHER, free, OTHER, soft, OTHER, free, OTHER, product(8, 8))
    assert made == [BASE, *["attention"] * 7, BASE]
    assert ordered(product(8, 8), OTHER, soft, OTHER, free)[1:4] == [""] * 3
    assert ordered(free, OTHER, soft, OTHER, product(8, 8))[1:4] == [""] * 3
    assert ordered(soft, free)[0] == ordered(free, soft)[1] == ""


def test_heads_by_their_words_or_by_the_loss() -> None:
    assert ordered(TABLE, product(8, WORDS), OTHER, product(8, WORDS), OTHER) == ["embedding", BASE, "", "head", "loss"]
    assert ordered(product(8, 9), OTHER, product(8, 7), OTHER, LOSS_OP) == [BASE, "", "head", "loss", "loss"]
    assert ordered(TABLE, product(8, WORDS), product(8, 9), LOSS_OP) == ["embedding", "head", BASE, "loss"]
    assert ordered(product(8, 9), OTHER) == [BASE, ""]
    assert ordered(LOSS_OP, product(8, 9)) == ["", BASE]
    twice = ordered(TABLE, product(8, WORDS), OTHER, TABLE, product(8, WORDS), OTHER, run=[0, 0, 0, 1, 1, 1])
    assert twice == ["embedding", "head", "loss"] * 2  # each pass has its own


def test_activations_end_with_their_product_and_keep_their_size() -> None:
    assert ordered(product(8, 32), TIMES, product(8, 32), TANH, product(32, 8))[1:4] == ["", BASE, "activation"]
    assert ordered(TIMES, TANH, OTHER) == ["activation", "activation", ""]
    flat = ordered((Sort.OTHER, (0, 0, 0), 7, "view"), product(8, 8))
    assert flat == ["", BASE]
