"""The collector is off where that is asked for, and as it was afterwards."""

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from loraprof.collector import uncollected

CYCLE = """
class Cycle:
    def __init__(self): self.itself = self
    def __del__(self): print("walked")
kept = Cycle()
"""
END = "from loraprof.collector import end_unwalked\nend_unwalked()\n"


@pytest.mark.parametrize("before", [True, False])
def test_it_is_as_it_was_afterwards(before: bool) -> None:
    found = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with suppress(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == before
    finally:
        (gc.enable if found else gc.disable)()


@pytest.mark.parametrize(("said", "start"), [("walked\n", ""), ("", END)])
def test_an_end_without_a_walk_frees_no_cycles(said: str, start: str) -> None:
    run = subprocess.run([sys.executable, "-c", start + CYCLE], capture_output=True, text=True, check=True)
    assert run.stdout == said
