"""Where a profile's time went adds up."""

from loraprof.capture.passes.spent import Spent


def test_parts_are_said_in_order_and_add_up() -> None:
    times = iter((0, 2_000_000_000, 5_000_000_000, 5_250_000_000, 6_250_000_000))
    spent = Spent(clock=lambda: next(times))
    for part in ("imports", "steps", "writing", "steps"):
        spent.ends(part)
    assert spent.sentence() == "6.2 s in all: imports 2.0 s, steps 4.0 s, writing 250 ms"


def test_what_came_before_the_clock_counts_where_its_start_is_known() -> None:
    times = iter((5_000_000_000, 6_000_000_000))
    spent = Spent(2_000_000_000, clock=lambda: next(times))
    spent.ends("imports")
    spent.ends("steps")
    assert spent.sentence() == "4.0 s in all: imports 3.0 s, steps 1.0 s"
