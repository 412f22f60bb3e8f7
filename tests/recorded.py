"""Recordings of shrunken presets and of scripts, each made in a process of its own, and kept."""

from pathlib import Path

from kept import inductor, kept
from warm import python

HERE = Path(__file__).parent
PRESETS = ("tiny-llama-cpu", "qwen2.5-0.5b", "gpt2-xl", "roberta-base", "resnet18", "minimind-26m", "opt-125m")


def recorded(name: str, *overrides: str) -> Path:
    """Path of the recording of ``shrink(preset)`` with ``field=value`` overrides."""

    def make(folder: Path) -> None:
        done = python(str(HERE / "record.py"), name, str(folder / f"{name}.loraprof"), *overrides, cwd=HERE.parent)
        assert done.returncode == 0, done.stderr[-2000:]

    return kept(make, "preset", name, *overrides) / f"{name}.loraprof"


def profiled(script: str, *words: str, skip: int = 1, timed: int = 4, steps: int = 2) -> Path:
    """Path of the recording of a script under ``tests/scripts``, made through the command line; ``out.txt`` beside it
    holds the report that it printed."""
    name = f"{words[0] if words else Path(script).stem}.loraprof"

    def make(folder: Path) -> None:
        passes = ["--skip", str(skip), "--timed", str(timed), "--steps", str(steps)]
        options = ["--quiet", *passes, "--record", str(folder / name)]
        command = ["-m", "loraprof", "profile", *options, str(HERE / "scripts" / script), *words]
        done = python(*command, cwd=HERE.parent, TORCHINDUCTOR_CACHE_DIR=str(inductor()))
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "out.txt").write_text(done.stdout)
        (folder / "err.txt").write_text(done.stderr)

    return kept(make, script, *words, str((skip, timed, steps))) / name
