"""What a command must not load: torch where nothing is measured, numpy where nothing is computed."""

import subprocess
import sys
from pathlib import Path

import pytest
from recordings import write_recording

from loraprof.store.profiles import profiles_dir

HEAVY = ("torch", "numpy", "numpy.ma", "transformers", "tensorboard", "ray", "loraprof.analysis.ranks.survey")
LOADED = f"""
import sys
from loraprof.cli.app import run
for line in sys.argv[1:]:
    code = run(line.split())
    print("loaded", code, *(name for name in {HEAVY} if name in sys.modules))
"""


def loaded(*lines: str) -> list[list[str]]:
    """Of command lines that one process runs in this order: exit codes, and which heavy packages there are by then."""
    done = subprocess.run([sys.executable, "-c", LOADED, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]


def test_what_computes_nothing_loads_nothing_heavy() -> None:
    verbs = ("", "profile ", "report ", "compare ", "export ", "doctor ", "explain ")
    lines = [*(f"{verb}--help" for verb in verbs), "--version", "workloads"]
    assert loaded(*lines) == [["0"]] * len(lines)


def test_explain_needs_no_torch() -> None:
    """It reads the rules themselves, and those the arrays of a step."""
    assert loaded("explain L2") == [["0", "numpy"]]


def test_report_needs_no_torch(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    forms = ("terminal", "json", "html", "markdown")
    lines = [f"report --format {form} {place} -o {tmp_path / form}" for form in forms]
    assert loaded(*lines) == [["0", "numpy"]] * len(lines)


def test_an_error_needs_no_torch(tmp_path: Path) -> None:
    ((code, *packages),) = loaded(f"report {tmp_path / 'none'}")
    assert code == "5"
    assert "torch" not in packages


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, loraprof; print(sorted({'torch', 'numpy', 'msgspec', 'rich', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_collector_rests_until_a_command_runs() -> None:
    """What is profiled finds it on."""
    code = "import gc, loraprof.__main__ as m; print(gc.isenabled()); from loraprof.cli.app import run; "
    code += "run(['explain', 'L2']); print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines()[0], done.stdout.splitlines()[-1]) == ("False", "True")


PAGE = """
import sys
from loraprof.cli.report import job_of
from loraprof.report.output import emit, make_ready
from loraprof.report.registry import Format
job, form = job_of(sys.argv[1], None, cached=False), Format(sys.argv[2])
make_ready(form)
report = job.report
before = set(sys.modules)
emit(report, form, None, force=False)
print("loaded:", *(name for name in set(sys.modules) - before if name.startswith(("loraprof", "rich.c"))))
"""


@pytest.mark.parametrize("form", ["terminal", "markdown", "agent", "json"])
def test_what_writes_a_report_is_loaded_before_there_is_one(form: str) -> None:
    """The page follows its report within milliseconds, the first of a process too."""
    recording = profiles_dir() / "recordings" / "h100-sxm" / "minimind-26m.loraprof"
    command = [sys.executable, "-c", PAGE, str(recording), form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def test_an_interrupt_while_it_loads_is_one_line() -> None:
    code = "import sys; sys.path_hooks.insert(0, interrupt); sys.path_importer_cache.clear(); main()"
    begin = "from loraprof.__main__ import main\ndef interrupt(path):\n    raise KeyboardInterrupt\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "loraprof: interrupted\n")
