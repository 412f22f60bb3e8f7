"""Where a profile's time went adds up."""

from loraprof.capture.passes.spent import Spent


def test_parts_are_said_in_order_and_add_up() -> None:
    times = iter((0, 2_000_000_000, 5_000_000_000, 5_250_000_000, 6_250_000_000))
    spent = Spent(lambda: next(times))
    for part in ("imports", "steps", "writing", "steps"):
        spent.ends(part)
    assert spent.sentence() == "6.2 s in all: imports 2.0 s, steps 4.0 s, writing 250 ms"
