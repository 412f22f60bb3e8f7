"""A misspelt word of the report's vocabulary is a type error, not a sum of nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

SNIPPET = """
from loraprof.model.report import Step

def adapters(step: Step) -> int:
    return step.ns(role={role!r}) + step.ns(cause={cause!r}, phase={phase!r})
"""


def types_of(path: Path, **words: str) -> str:
    path.write_text(SNIPPET.format(**words))
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", str(path)], capture_output=True, text=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["adaptor.up", None])
def test_a_misspelt_role_is_a_type_error(tmp_path: Path, wrong: str | None) -> None:
    said = types_of(tmp_path / "snippet.py", role=wrong or "adapter.up", cause="python", phase="forward")
    assert ('Argument "role"' in said) == (wrong is not None)
    assert ("Success" in said) == (wrong is None)


@pytest.mark.slow
def test_so_are_a_cause_and_a_phase(tmp_path: Path) -> None:
    said = types_of(tmp_path / "snippet.py", role="norm", cause="pyhton", phase="foward")
    assert 'Argument "cause"' in said
    assert 'Argument "phase"' in said
