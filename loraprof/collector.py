"""Where does a process do without Python's cyclic garbage collector?

It walks every object there is. What torch and transformers load are some two million, none of them garbage: their
import takes a quarter longer with the collector, and the interpreter looks through them once more as it ends, for about
a second.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Off inside, as it was afterwards: for what leaves no cycles, such as imports and tables."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def end_unwalked() -> None:
    """The interpreter's end looks for no cycles. Not where a script runs, whose objects may wait for that."""
    atexit.register(gc.freeze)
