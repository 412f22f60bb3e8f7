"""Trainings that people's libraries start: their adapters are counted, their losses untouched, the planted cause named.

``pip install -c constraints.txt -e '.[stacks]'``; ``LORAPROF_REQUIRE_STACKS=1`` makes a missing library a failure.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from kept import kept
from warm import python

import loraprof

pytestmark = [pytest.mark.stacks, pytest.mark.slow]
SCRIPTS = Path(__file__).parent / "scripts" / "stacks"
REQUIRED = bool(os.environ.get("LORAPROF_REQUIRE_STACKS"))
# Script and its arguments, library, adapted layers, ranks, the cause that the script plants.
CASES = [
    ("sft.py", "trl", 4, {4}, "G4"),
    ("lightning_fit.py", "lightning", 4, {4}, "L2"),
    ("loralib_layers.py", "loralib", 4, {4, 8, 16}, "L4"),
    ("torchtune_builder.py", "torchtune", 12, {4}, "L4"),
    ("unet.py", "diffusers", 16, {4}, "B11"),
    ("loha.py loha", "lycoris", 2, {4}, "L7"),
    ("quantised.py", "bitsandbytes", 4, {4}, "B5"),
]


def losses(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("0x", "-0x"))]


def both(script: str, *words: str) -> Path:
    """Runs it alone and through the command line; the folder holds ``alone.txt``, ``out.txt`` and ``x.loraprof``."""

    def make(folder: Path) -> None:
        command = [str(SCRIPTS / script), *words]
        profile = ["-m", "loraprof", "profile", "--quiet", "--finish", "--record", str(folder / "x.loraprof"), *command]
        for name, run in (("alone", command), ("out", profile)):
            done = python(*run, cwd=folder, HF_HUB_OFFLINE="1")
            assert done.returncode == 0, done.stderr[-2000:]
            (folder / f"{name}.txt").write_text(done.stdout)

    return kept(make, "stacks", script, *words)


@pytest.mark.parametrize(("script", "library", "layers", "ranks", "cause"), CASES, ids=[case[1] for case in CASES])
def test_a_library_s_own_training(script: str, library: str, layers: int, ranks: set[int], cause: str) -> None:
    if find_spec(library) is None and not REQUIRED:
        pytest.skip(f"{library} is not installed: pip install -c constraints.txt -e '.[stacks]'")
    folder = both(*script.split())
    alone, watched = (losses((folder / name).read_text()) for name in ("alone.txt", "out.txt"))
    assert watched == alone
    assert len(set(alone)) == 8
    report = loraprof.diagnose(folder / "x.loraprof")
    assert report.adapter is not None
    assert report.adapter.modules == layers
    assert {site.rank for site in report.adapter.sites} == ranks
    assert cause in {finding.id for finding in report.findings}
