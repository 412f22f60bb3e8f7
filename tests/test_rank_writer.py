"""Ranks write one recording together: whoever dies, is late or has no disk left, what is published is whole.

Each rank is a thread with a Launch of its own; the folder is what they share. Behind a URL the same rules hold.
"""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import msgspec
import pytest
from recordings import recording, trace_bytes

from loraprof.capture.ranks import publish as ranks
from loraprof.capture.ranks.launch import Launch
from loraprof.capture.ranks.publish import Patience, RankWriter, joined, stage_of
from loraprof.capture.ranks.stage import Stage
from loraprof.errors import UsageError
from loraprof.model.recording import Nvml, Recording
from loraprof.store.layout import RECORDING
from loraprof.store.owners import children
from loraprof.store.places import Place, place_of
from loraprof.store.recordings import load_source

NVML = Nvml(uuid="GPU-0", driver=None, steps=1, loop_ns=1, samples=[])


@pytest.fixture(params=["local", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        yield tmp_path / "x.loraprof"
        return
    yield place_of("memory://bucket/x.loraprof")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "POLL_S", (0.001, 0.002))
    monkeypatch.setattr(ranks, "GRACE_S", 0.1)


def launch(rank: int, world: int, key: str = "k") -> Launch:
    return Launch(rank, world, key, time.time() - 1, True)


def stage(target: Place, rank: int, world: int, force: bool = False, key: str = "k") -> Stage:
    found = joined(target, launch(rank, world, key), force)
    assert found is not None
    return found


def finish(one: Stage, rank: int, world: int, patience_s: float = 20.0) -> RankWriter:
    writer = RankWriter(one, launch(rank, world), Patience(patience_s))
    writer.trace().write_bytes(trace_bytes(rank))
    writer.hand_in(recording(), NVML if rank == 0 else None)
    writer.publish()
    return writer


def together(target: Place, alive: list[int], world: int, patience_s: float = 20.0) -> list[RankWriter]:
    """Every rank of ``alive`` at once; those that led."""
    stages = {rank: stage(target, rank, world) for rank in alive}
    with ThreadPoolExecutor(len(alive)) as pool:
        done = list(pool.map(lambda rank: finish(stages[rank], rank, world, patience_s), alive))
    return [writer for writer in done if writer.whole is not None]


def beside(target: Place) -> list[str]:
    """What lies next to the target, and unknown things inside it."""
    if isinstance(target, Path):
        return [p.name for p in target.parent.iterdir() if p.name != target.name]
    return [e.name for e in target.entries() if e.name.startswith("_")]


@pytest.mark.parametrize("world", [1, 2, 9])
def test_one_rank_publishes_for_all(target: Place, world: int) -> None:
    leaders = together(target, list(range(world)), world)
    assert len(leaders) == 1
    source = load_source(target)
    assert [file.rank for file in source.ranks] == list(range(world))
    assert all((file.own is not None) == (world > 1) for file in source.ranks)
    assert source.nvml == NVML
    assert source.recording is not None
    assert (source.recording.environment.world_size, source.recording.missing_ranks) == (world, [])
    assert source.notes == ()
    assert beside(target) == []


def test_the_lowest_rank_left_leads_and_names_the_dead(target: Place) -> None:
    (leader,) = together(target, [1, 3], 4, patience_s=0.05)
    source = load_source(target)
    assert [file.rank for file in source.ranks] == [1, 3]
    assert source.recording == leader.whole
    assert source.recording is not None
    assert source.recording.missing_ranks == [0, 2]
    assert source.recording.notes == ["ranks 0, 2 left no recording: died, or slower than 0 s"]
    assert source.notes == ()  # said once


def test_what_a_dead_rank_had_begun_is_not_published(target: Place) -> None:
    dead = stage(target, 1, 2)
    dead.trace().write_bytes(b"half a tr")
    together(target, [0], 2, patience_s=0.05)
    assert [file.rank for file in load_source(target).ranks] == [0]
    assert beside(target) == []


def test_a_rank_that_says_why_is_not_waited_for(target: Place) -> None:
    assert not stage(target, 1, 2).fail("its script ended after 12 optimizer steps")
    together(target, [0], 2, patience_s=1e9)
    found = load_source(target).recording
    assert found is not None
    assert found.notes == ["rank 1 left no recording: its script ended after 12 optimizer steps"]


def test_the_next_rank_takes_over_from_a_leader_that_died_at_the_last_moment(target: Place) -> None:
    first = stage(target, 0, 2)
    first.trace().write_bytes(trace_bytes())
    first.finish(msgspec.json.encode(recording()))  # done, and then killed before it published
    (leader,) = together(target, [1], 2)
    assert leader.whole is not None
    assert [file.rank for file in load_source(target).ranks] == [0, 1]


def test_another_process_publishes_for_the_one_that_had_to_go(target: Place) -> None:
    """In a job that falls apart: the part is there, the process that wrote it is not."""
    for rank in (1, 2):
        gone = RankWriter(stage(target, rank, 4), launch(rank, 4))
        gone.trace().write_bytes(trace_bytes(rank))
        gone.hand_in(recording(), None)
    follower = RankWriter(stage_of(target, launch(1, 4), False, claim=False), launch(1, 4), Patience(0.05))
    assert follower.publish()
    source = load_source(target)
    assert [file.rank for file in source.ranks] == [1, 2]
    assert source.recording is not None
    assert source.recording.environment.rank == 1
    assert source.recording.missing_ranks == [0, 3]
    assert beside(target) == []


def test_a_leader_that_waits_hears_that_the_job_is_torn_down(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 was killed as it wrote: torchrun ends the leader half a minute later, it must be done before."""
    monkeypatch.setattr(ranks, "LAST_WORDS_S", 0.05)
    patience = Patience(1e9)
    writer = RankWriter(stage(target, 0, 2), launch(0, 2), patience)
    writer.trace().write_bytes(trace_bytes())
    writer.hand_in(recording(), None)
    patience.shorten()
    assert writer.publish()
    found = load_source(target).recording
    assert found is not None
    assert found.notes == ["rank 1 left no recording: died, or slower than 0 s"]


def test_a_rank_is_waited_for_as_long_as_its_process_lives(target: Place) -> None:
    """A shell stands for the launcher: it has one process that never hands in a part."""
    launcher = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    while not (alive := children(launcher.pid) or set()):
        time.sleep(0.01)
    one = dataclasses.replace(launch(0, 2), launcher=launcher.pid)
    found = joined(target, one, False)
    assert found is not None
    writer = RankWriter(found, one, Patience(60.0))
    writer.trace().write_bytes(trace_bytes())
    writer.hand_in(recording(), None)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(writer.publish)
        time.sleep(0.1)
        assert not published.done()
        for process in alive:
            os.kill(process, signal.SIGKILL)
        assert published.result(30)
    launcher.wait()
    assert writer.whole is not None
    assert writer.whole.notes == ["rank 1 left no recording: died"]


def test_two_processes_with_one_rank(target: Place) -> None:
    stage(target, 1, 2)
    with pytest.raises(UsageError, match=f"rank 1 is already being recorded, by process {os.getpid()}\n"):
        stage(target, 1, 2)


def test_until_it_has_its_name_the_folder_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere, it is known as a leftover; the recording holds no claim in the end."""
    seen: list[Path] = []
    for name in ("rename", "unlink", "mkdir"):
        real = getattr(Path, name)

        def spied(path: Path, *words: object, real: Callable[..., object] = real, **options: object) -> object:
            done = real(path, *words, **options)
            seen.extend(p for p in tmp_path.glob(".*.tmp-ranks-*") if not [*p.glob("*.claim")])
            return done

        monkeypatch.setattr(Path, name, spied)
    together(tmp_path / "x.loraprof", [0], 1)
    assert stage(tmp_path / "y.loraprof", 0, 1).fail("no room")
    assert seen == []
    assert {p.name for p in (tmp_path / "x.loraprof").iterdir()} == {"nvml.json", "rank0.trace.json.gz", RECORDING}
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]


def test_a_late_rank_leaves_the_recording_alone(target: Place) -> None:
    slow = stage(target, 0, 2)
    together(target, [1], 2, patience_s=0.05)
    before = (target / RECORDING).read_bytes()
    assert slow.published()
    assert joined(target, launch(0, 2), force=True) is None
    assert (target / RECORDING).read_bytes() == before
    assert beside(target) == []


def test_nothing_is_overwritten_without_force(target: Place) -> None:
    together(target, [0], 1)
    with pytest.raises(UsageError, match="exists already"):
        joined(target, launch(0, 1, "other"), force=False)
    again = stage(target, 0, 1, force=True, key="other")
    writer = RankWriter(again, launch(0, 1, "other"))
    writer.trace().write_bytes(trace_bytes())
    writer.hand_in(recording(), None)
    assert writer.publish()
    found = load_source(target).recording
    assert found is not None
    assert found.environment.launch == "other"


def test_when_every_rank_fails_nothing_is_left(target: Place) -> None:
    stages = [stage(target, rank, 3) for rank in range(3)]
    for one in stages:
        one.trace().write_bytes(b"half")
    assert [one.fail("the disk is full") for one in stages] == [False, False, True]
    assert beside(target) == []
    assert not (target / RECORDING).exists()


def test_marks_of_an_earlier_crash_do_not_count(tmp_path: Path) -> None:
    """Static rendezvous over machines: the next launch has the same key."""
    target = tmp_path / "x.loraprof"
    crashed = stage(target, 1, 2)
    crashed.trace().write_bytes(trace_bytes())
    crashed.finish(msgspec.json.encode(recording()))
    folder = crashed.trace().parent
    for path in folder.iterdir():
        os.utime(path, (time.time() - 100, time.time() - 100))
    together(target, [0], 2, patience_s=0.05)
    assert [file.rank for file in load_source(target).ranks] == [0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]


def test_the_calibration_is_added_when_the_recording_is_whole(target: Place) -> None:
    one = stage(target, 0, 1)
    writer = finish(one, 0, 1)
    assert load_source(target).recording == writer.whole
    more = msgspec.structs.replace(recording(), notes=["calibrated"])
    one.replace(msgspec.json.encode(more))
    assert load_source(target).recording == more
    assert beside(target) == []


def test_an_unfinished_recording_can_be_read(tmp_path: Path) -> None:
    """The leader died: the ranks' parts are there, under the temporary name."""
    for rank in (1, 2):
        one = stage(tmp_path / "x.loraprof", rank, 4)
        one.trace().write_bytes(trace_bytes(rank))
        own = msgspec.structs.replace(recording(), environment=_of(recording(), rank, 4))
        one.finish(msgspec.json.encode(own))
    (folder,) = tmp_path.iterdir()
    source = load_source(folder)
    assert source.kind == "recording"
    assert [file.rank for file in source.ranks] == [1, 2]
    assert any("an unfinished recording" in note for note in source.notes)
    assert "no trace here of ranks 0, 3" in source.notes


def _of(one: Recording, rank: int, world: int) -> object:
    return msgspec.structs.replace(one.environment, rank=rank, world_size=world)
