"""What every test shares: one place for temporary folders, which pytest clears."""

import os
import tempfile
from collections.abc import Iterator

import pytest


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
