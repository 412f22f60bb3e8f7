"""Whatever is ended at whatever moment: recordings are absent or whole, no process and no file outlives it for long."""

from pathlib import Path

import pytest
from kills import TARGETS, kill_often

# 50 in all; those whose processes must load torch by themselves are few.
TIMES = {"profile script": 20, "profile workload": 10, "compare": 6, "sweep": 5, "fix": 6, "torchrun": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    tally = kill_often(tmp_path, name, TIMES[name], seed=0)
    print(f"{name}: {tally}")
    assert tally.wrong() == []
    assert tally.killed.total() == TIMES[name]
