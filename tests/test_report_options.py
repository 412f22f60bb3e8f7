"""``loraprof report`` on the command line: what ``--full``, ``--section`` and ``--as-profiled`` print and refuse."""

import os
from pathlib import Path

import pytest

from loraprof.cli.app import run
from loraprof.store.profiles import profiles_dir

LLAMA = str(profiles_dir() / "recordings" / "h100-sxm" / "llama-3.2-1b.loraprof")


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the analysis stays that these tests show one after the other."""
    return str(tmp_path_factory.mktemp("analyses"))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, analyses: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LORAPROF_CACHE", analyses)


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["report", LLAMA, *words]) == 0
    return capfd.readouterr().out


def test_the_page_fits_a_screen_and_full_holds_the_rest(capfd: pytest.CaptureFixture[str]) -> None:
    page, full = printed(capfd), printed(capfd, "--full")
    assert len(page.splitlines()) <= 40
    assert page.startswith("LoRA is 1.18x slower than full fine-tuning here: 132 ms against 112 ms")
    assert "Where the 132 ms go, without the profiler" in page
    assert "Top kernels" not in page
    for title in (
        "Top kernels",
        "Idle time by cause",
        "Memory traffic",
        "Findings",
        "Modules",
        "How far to trust this",
    ):
        assert title in full
    assert "…" not in page + full


def test_one_section(capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(capfd, "--section", "idle")
    assert text.startswith("Idle time by cause")
    assert "7.726" in text  # ms of the 132, not 125 of the 250
    assert run(["report", LLAMA, "--section", "colours"]) == 2
    assert "choose one of account, time, do, sure" in capfd.readouterr().err


def test_as_profiled(capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(capfd, "--as-profiled")
    assert text.startswith("Shares are of the step under the profiler, which takes 1.89x as long as without it.")
    assert "Where the 250 ms go, under the profiler" in text
    assert run(["report", LLAMA, "--as-profiled", "--format", "json"]) == 2
    assert "with and without the profiler" in capfd.readouterr().err


def test_what_a_machine_reads_is_always_whole(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["--full"], ["--section", "idle"]):
        assert run(["report", LLAMA, "--format", "markdown", "-o", str(tmp_path / "x.md"), *words]) == 2
        assert "always holds everything" in capfd.readouterr().err
    assert not (tmp_path / "x.md").exists()


def test_markdown_and_github_follow_the_same_order(capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(capfd, "--format", "markdown")
    heads = [line.removeprefix("### ").split(" <sub>")[0] for line in text.splitlines() if line.startswith("### ")]
    assert heads[0] == "Against full fine-tuning"
    assert heads[1] == "Where the 132 ms go, without the profiler"
    assert heads[2:4] == ["What to do", "How sure"]
    assert heads.index("Time by phase and role") > 3
    first = printed(capfd, "--format", "github").splitlines()[0]
    assert first.startswith("::notice title=loraprof::LoRA is 1.18x slower than full fine-tuning here")


@pytest.mark.parametrize("form", ["terminal", "json", "html"])
def test_a_reader_that_went_away_is_no_failure(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behind, ahead = os.pipe()
    os.close(behind)
    with os.fdopen(ahead, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert run(["report", LLAMA, "--format", form]) == 0
