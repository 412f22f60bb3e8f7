"""Ranks of one launch agree on its key; another launch, or a restart, has another."""

import subprocess
import sys

import pytest

from loraprof.capture.ranks.launch import launch
from loraprof.store.owners import machine_key

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR",
        "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_alone() -> None:
    own = launch()
    assert (own.rank, own.world, own.one_machine) == (0, 1, True)


def test_ranks_of_one_machine_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for rank in range(3):
        told(monkeypatch, RANK=rank, WORLD_SIZE=3, LOCAL_WORLD_SIZE=3)
        own = launch()
        keys.add((own.key, own.began_s))
        assert (own.rank, own.world, own.one_machine) == (rank, 3, True)
    assert len(keys) == 1


def test_another_parent_is_another_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    code = "from loraprof.capture.ranks.launch import launch; print(launch().key)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert child != launch().key


def test_a_restart_is_another_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RESTART_COUNT=0)
    first = launch().key
    told(monkeypatch, TORCHELASTIC_RESTART_COUNT=1)
    assert launch().key != first


def test_over_several_machines_the_rendezvous_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parents differ there: the key must not depend on them."""
    told(monkeypatch, RANK=0, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RUN_ID="job", MASTER_ADDR="a")
    own = launch()
    assert not own.one_machine
    code = "from loraprof.capture.ranks.launch import launch; print(launch().key)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert child == own.key
    told(monkeypatch, TORCHELASTIC_RUN_ID="other")
    assert launch().key != own.key


def test_a_machine_has_one_key() -> None:
    code = "from loraprof.store.owners import machine_key; print(machine_key())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert child == machine_key()
