"""The recordings that tests share: what a run beside this one may be reading is not taken from under it."""

import os
import time
from pathlib import Path

import kept
import pytest


def test_old_generations_go_and_those_in_use_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAPROF_TEST_CACHE", str(tmp_path))
    kept.generation.cache_clear()
    now = time.time()
    for number in range(8):
        place = tmp_path / f"generation{number}"
        place.mkdir()
        age_s = 60 * number if number < 6 else 2 * kept.IN_USE_S
        os.utime(place, (now - age_s, now - age_s))
    try:
        kept.tidy()
    finally:
        kept.generation.cache_clear()
    left = {p.name for p in tmp_path.iterdir()}
    assert {f"generation{number}" for number in range(6)} <= left  # more than are kept, but just used
    assert not left & {"generation6", "generation7"}
