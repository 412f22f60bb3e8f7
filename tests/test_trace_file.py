"""The profiler's trace reaches the disk whole, or an error says that it did not."""

import errno
import gzip
from pathlib import Path

import pytest
import torch

from loraprof.capture.ranks.trace_file import export_trace


class Fake:
    """A profiler that writes what it is given, or, like Kineto on a full disk, leaves a part under another name."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content

    def export_chrome_trace(self, path: str) -> None:
        if self.content is None:
            Path(f"{path}.tmp").write_bytes(b'{"traceEv')
        else:
            Path(path).write_bytes(self.content)


def test_what_was_exported_is_what_is_in_the_file(tmp_path: Path) -> None:
    text = b'{"traceEvents": []}' * 10_000
    export_trace(Fake(text), tmp_path / "t.json.gz")
    assert gzip.decompress((tmp_path / "t.json.gz").read_bytes()) == text
    assert [p.name for p in tmp_path.iterdir()] == ["t.json.gz"]


@pytest.mark.parametrize("content", [None, b""])
def test_a_full_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError) as caught:
        export_trace(Fake(content), tmp_path / "t.json.gz")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_real_profiler(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3).add(1)
    export_trace(profiler, tmp_path / "t.json.gz")
    assert b"aten::add" in gzip.decompress((tmp_path / "t.json.gz").read_bytes())
