"""What every test shares: temporary folders that pytest clears, one thread a process, kept recordings."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: threads would fight with other workers for cores

os.environ["LORAPROF_CACHE"] = ""  # what an earlier version analysed is not tested

import kept
import said

# Containers often forbid compiled files: every process that a test starts would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts what runs in its background deaf to SIGINT, and so would be every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # once, before the workers start
        kept.tidy()


def pytest_collection_finish() -> None:
    """What was imported is never garbage, and tests share large documents: a tenth of the time went into looking."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def settled() -> Iterator[None]:
    """What a module leaves for later ones is large and no garbage, either: a program's collections need not walk it."""
    yield
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    kept.used.clear()
    said.lines.clear()
    kept.allowed = item.get_closest_marker("slow") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a step says in all is compared once the test has asked what it wants to know."""
    yield
    if item.get_closest_marker("slow") is None:  # what was recorded here has other numbers each time
        said.check(item.nodeid)


def pytest_runtest_teardown() -> None:
    """A process that has compiled anything has its work counted uncompiled: what one test compiles is not another's."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        kept.doubt()
    return report


@pytest.fixture
def seeded() -> Iterator[None]:
    """Random numbers start anew, and what a remedy may have set for all products is as it was."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.manual_seed(0)
    yield
    torch.set_float32_matmul_precision(before)


# Machines differ by a factor of three, and are shared: slowness is no failure.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Recordings shared between tests outlive each of them, and come from helpers and from processes they start."""
    place, before = str(tmp_path_factory.mktemp("shared")), os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = place
    yield
    tempfile.tempdir = None
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed with the module: Playwright keeps a loop running in this thread."""
    from pages import chromium

    with chromium() as started:
        yield started
