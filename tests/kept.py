"""Recordings that tests share, on disk: made once for all tests, workers and runs of the same sources."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "loraprof/**/*.py",
    "profiles/[gw]*/*.toml",
    "tests/scripts/**/*.py",
    "tests/record.py",
    "tests/warm.py",
    "benchmarks/shrink.py",
)
PACKAGES = ("torch", "transformers", "peft", "accelerate")
FOLDERS = 5  # folders that stay: of compiled kernels, and of as many states of the sources
IN_USE_S = 3600.0  # what another checkout's run may still be reading stays, too
used: set[Path] = set()  # by the running test
allowed = True  # for the running test


def folder() -> Path:
    """``LORAPROF_TEST_CACHE``, or a folder of the user's cache."""
    named = os.environ.get("LORAPROF_TEST_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(named) if named else user / "loraprof-tests"


@cache
def generation() -> Path:
    """The folder of these sources and packages."""
    digest = blake2b(" ".join([sys.version, *map(version, PACKAGES)]).encode(), digest_size=8)
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    place = folder() / digest.hexdigest()
    place.mkdir(parents=True, exist_ok=True)
    return place


def inductor() -> Path:
    """Where inductor keeps the kernels that it compiled, by their source."""
    place = folder() / f"inductor-{version('torch')}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def kept(make: Callable[[Path], None], *key: str) -> Path:
    """The folder that ``make`` filled for this key, in this run or before; nobody changes what lies in it."""
    assert allowed, "a test that records in another process is marked slow"
    place = generation() / blake2b("\0".join(key).encode(), digest_size=8).hexdigest()
    used.add(place)
    place.parent.touch()
    if place.exists():
        return place
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if not place.exists():
            unfinished = place.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(place)
    return place


def doubt() -> None:
    """The running test failed: what it used is made again in the next run. Others may be reading it in this one."""
    for place in used:
        place.with_suffix(".doubt").touch()


def tidy() -> None:
    """Before a run: what is in doubt goes, and all but the last generations and those that were used just now."""
    inductor().touch()
    generation().touch()
    for mark in generation().glob("*.doubt"):
        shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
        mark.unlink()
    ages = sorted((time.time() - path.stat().st_mtime, path) for path in folder().iterdir())
    for age_s, old in ages[FOLDERS:]:
        if age_s > IN_USE_S:
            shutil.rmtree(old, ignore_errors=True)
