"""Recordings of shrunken presets, made once per test session, each in a process of its own."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

HERE = Path(__file__).parent
PRESETS = ("tiny-llama-cpu", "qwen2.5-0.5b", "gpt2-xl", "roberta-base", "resnet18", "minimind-26m", "opt-125m")


@cache
def recorded(name: str, *overrides: str) -> Path:
    """Path of the recording of ``shrink(preset)`` with ``field=value`` overrides."""
    place = Path(mkdtemp(prefix="loraprof-")) / f"{name}.loraprof"
    command = [sys.executable, str(HERE / "record.py"), name, str(place), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return place
