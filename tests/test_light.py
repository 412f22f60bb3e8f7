"""What a report switches off, and that it is as before afterwards."""

import gc
import os

import pytest

from loraprof.cli.light import BLAS_THREADS, light


@pytest.mark.parametrize(("given", "inside"), [(None, "1"), ("3", "3")])
def test_threads_and_collection_are_restored(given: str | None, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLAS_THREADS, raising=False)
    if given is not None:
        monkeypatch.setenv(BLAS_THREADS, given)
    assert gc.isenabled()
    with light():
        assert not gc.isenabled()
        assert os.environ[BLAS_THREADS] == inside
    assert gc.isenabled()
    assert os.environ.get(BLAS_THREADS) == given
