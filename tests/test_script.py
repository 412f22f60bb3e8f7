"""A script under loraprof sees what it sees under python: argv, path, __main__, its own streams and exit code."""

import gc
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from loraprof.errors import UsageError
from loraprof.runs.profile.run_script import run_script

SEEN = """
import os, sys
print(__name__, os.path.basename(__file__), os.path.isabs(__file__), sys.argv[1:], os.path.basename(sys.path[0]))
print(sys.modules["__main__"].__dict__ is globals(), __spec__ is None, __doc__, __package__, sys.stdin.read())
import sibling
"""


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def both(folder: Path, *words: str, stdin: str = "") -> list[subprocess.CompletedProcess[str]]:
    """The same words under python and under ``run_script``."""
    module = words[0] == "-m"
    call = f"run_script({list(words[module:])}, {module})"
    code = f"import sys; from loraprof.runs.profile.run_script import run_script; sys.exit({call})"
    roots = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "PYTHONPATH": roots}
    commands = [[sys.executable, *words], [sys.executable, "-c", code]]
    return [
        subprocess.run(c, cwd=folder, input=stdin, capture_output=True, text=True, env=env, check=False)
        for c in commands
    ]


@pytest.mark.parametrize("where", ["train.py", "with space.py", "deep/er/train.py"])
def test_a_script_sees_itself(tmp_path: Path, where: str) -> None:
    write(tmp_path, where, SEEN)
    write((tmp_path / where).parent, "sibling.py", "print('sibling')")
    plain, ours = both(tmp_path, where, "--lr", "3", stdin="typed")
    assert plain.returncode == ours.returncode == 0, ours.stderr
    assert plain.stdout == ours.stdout
    assert "['--lr', '3']" in ours.stdout


def test_a_link_keeps_its_name_and_finds_its_target_s_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "real", "train.py", SEEN)
    write(tmp_path / "real", "sibling.py", "print('sibling')")
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "train.py")
    plain, ours = both(tmp_path, "link.py")
    assert plain.stdout == ours.stdout != ""


def test_modules_packages_and_archives(tmp_path: Path) -> None:
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/train.py", "import sys; from . import other; print(__name__, __package__, sys.argv)")
    write(tmp_path, "pkg/__main__.py", "import sys; print(__name__, __package__, sys.argv)")
    write(tmp_path, "pkg/other.py", "")
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "import sys; print(__name__, sys.argv)")
    for words in (("-m", "pkg.train", "-x"), ("-m", "pkg", "a"), ("app.pyz", "b"), ("pkg", "c")):
        plain, ours = both(tmp_path, *words)
        assert (plain.returncode, plain.stdout) == (0, ours.stdout), words
        assert ours.returncode == 0


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("raise SystemExit('went wrong')", 1, "went wrong\n"),
        ("def f():\n    raise ValueError('boom')\nf()", 1, "ValueError: boom"),
        ("def f(:", 1, "SyntaxError"),
        ("import os; os.close(0); print('fine')", 0, ""),
    ],
)
def test_exit_codes_and_tracebacks(tmp_path: Path, text: str, code: int, said: str) -> None:
    write(tmp_path, "s.py", text)
    plain, ours = both(tmp_path, "s.py")
    assert (plain.returncode, plain.stdout) == (ours.returncode, ours.stdout) == (code, plain.stdout)
    assert said in ours.stderr
    assert "loraprof" not in ours.stderr
    assert plain.stderr.splitlines()[-1:] == ours.stderr.splitlines()[-1:]
    assert [line for line in ours.stderr.splitlines() if "File" in line] == [
        line for line in plain.stderr.splitlines() if "File" in line
    ]


def test_what_a_script_does_to_sys_is_undone(tmp_path: Path) -> None:
    text = "import sys\nsys.argv.append('x'); sys.path.append('y'); sys.stdout = None; sys.stderr = object()"
    before = sys.argv, list(sys.path), sys.stdout, sys.stderr, sys.modules["__main__"]
    assert run_script([write(tmp_path, "s.py", text)], False) == 0
    assert (sys.argv, sys.path, sys.stdout, sys.stderr, sys.modules["__main__"]) == before


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0"])
@pytest.mark.parametrize("keep", [True, False])
def test_what_a_script_leaves_lives_on_where_asked(tmp_path: Path, end: str, keep: bool) -> None:
    text = f"import sys, weakref\nclass Reducer: pass\nheld = Reducer()\nsys.seen = weakref.ref(held)\n{end}"
    run_script([write(tmp_path, "s.py", text)], False, keep)
    gc.collect()
    assert (vars(sys).pop("seen")() is not None) == keep


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("run.loraprof/", False, "a recording or a trace, not a script"),
        ("nothing.py", False, "no such script or workload"),
        ("tinylama-1.1b", False, "no such script or workload"),
        ("no.such.module", True, "no such module"),
        ("loraprof/nothing", True, "no such module"),
    ],
)
def test_targets_that_do_not_exist(name: str, module: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        run_script([name], module)
    assert error.value.exit_code == 2
    if name == "tinylama-1.1b":
        assert error.value.hint == "the workload is called tinyllama-1.1b"
