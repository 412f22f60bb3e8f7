"""The profiler's trace as a compressed file: whole, or an error.

Kineto writes beside its target and renames, and only logs when the disk is full: what is missing afterwards was not
written. torch's own compression of a ``.gz`` name does not look, and takes several times as long.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from isal import igzip

from loraprof.store.leftovers import scratch

LEVEL = 2  # of 0 to 3


def export_trace(profiler: Any, target: Path) -> None:
    """Writes ``target`` (``.json.gz``) by way of a file in the temporary directory. Raises OSError."""
    with scratch() as folder:
        plain = folder / "trace.json"
        profiler.export_chrome_trace(str(plain))
        if not plain.exists() or not plain.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
        with plain.open("rb") as text, target.open("wb") as out:
            packed = igzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=LEVEL, mtime=0)
            with packed:
                shutil.copyfileobj(text, packed, 1 << 20)
