"""Freed memory stays in the process while somebody asks for it; other C libraries are left alone."""

import subprocess
import sys

import pytest

from loraprof.capture.device import heap

FAULTS = """
import resource, sys, torch
from loraprof.capture.device import heap
if sys.argv[1] == "kept":
    heap.keep_freed_memory()
for _ in range(12):  # what glibc keeps back per thread (seven small chunks of a size) has to fill first
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(heap._libc() is None, reason="the C library is not glibc")
def test_a_kept_heap_takes_no_page_twice() -> None:
    """64 MiB are 16,384 pages of 4 KiB (or fewer, larger ones)."""
    assert faults("kept") < 100
    assert faults("usual") > 4 * 100


class Library:
    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


def test_the_last_release_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(heap, "_libc", lambda: library)
    monkeypatch.setattr(heap, "_holders", 0)
    heap.keep_freed_memory()
    heap.keep_freed_memory()
    assert library.calls == list(heap.KEPT.items())
    heap.release()
    assert library.calls == list(heap.KEPT.items())
    heap.release()
    assert library.calls == [*heap.KEPT.items(), *heap.USUAL.items(), (0,)]


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_libc", lambda: None)
    monkeypatch.setattr(heap, "_holders", 0)
    heap.keep_freed_memory()
    heap.touch(1 << 20)
    heap.release()
