"""The MCP server: what an agent is offered, what it is answered, and how it is told what went wrong."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import reference

from loraprof.integrations.tool_process import MOST, Ended, failure, succeeded
from loraprof.store.profiles import profiles_dir

pytest.importorskip("mcp", reason="pip install 'loraprof[mcp]'")

RECORDINGS = reference.found_in(profiles_dir() / "recordings")
PLAN = "loraprof: plan: 3 steps\n"
BOOM = 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: boom\n'


@pytest.mark.parametrize(
    ("code", "err", "line"),
    [
        (
            5,
            f"{PLAN}loraprof: x: no such file\n          pass a trace\n",
            "unreadable input): x: no such file; pass a trace",
        ),
        (2, "loraprof: no such verb\n", "bad usage): no such verb"),
        (
            7,
            f"{PLAN}{BOOM}loraprof: the script exited with code 7\n",
            "ValueError: boom; the script exited with code 7",
        ),
        (1, f"{PLAN}{BOOM}", "the script's own, or 1 a bug in loraprof): ValueError: boom"),
        (-9, "", "exit code -9 (the script's own, or 1 a bug in loraprof): "),
    ],
)
def test_a_failure_is_one_line_with_its_exit_code(code: int, err: str, line: str) -> None:
    said = failure(Ended(code, "", err))
    assert said.startswith(f"exit code {code} (")
    assert said.endswith(line)
    assert "\n" not in said


def test_a_failure_is_short() -> None:
    assert len(failure(Ended(4, "", "loraprof: " + "long " * 1000))) == MOST


@pytest.mark.parametrize(("code", "out", "good"), [(0, "", True), (3, "", True), (4, "", False), (9, "a report", True)])
def test_a_missed_threshold_and_a_late_failure_are_answers(code: int, out: str, good: bool) -> None:
    assert succeeded(Ended(code, out, "")) is good


def test_no_value_becomes_an_option() -> None:
    from loraprof.integrations import mcp

    assert mcp._options(fail_on="--force", force=False, steps=3, record=None, allow_different=True) == [
        "--fail-on=--force",
        "--steps=3",
        "--allow-different",
    ]
    with pytest.raises(mcp.ToolError, match=r"exit code 2 \(bad usage\): --output"):
        mcp._target(["--output", "x"], "-m")
    assert mcp._target(["-m", "package.train"], "-m")
    assert mcp._as_fields("differ: --allow-different compares them --fail-on") == (
        "differ: allow_different compares them fail_on"
    )
    assert mcp._as_fields("a--b -- c") == "a--b -- c"


def test_the_instructions_are_the_skill() -> None:
    from loraprof.integrations.mcp import instructions
    from loraprof.report.skill import SKILL

    assert instructions().endswith(SKILL.read_text().rstrip().rsplit("\n", 1)[1])
    assert "description:" not in instructions()


Call = Callable[..., Awaitable[tuple[bool, str]]]


def served(folder: Path, use: Callable[[Any, Call], Awaitable[None]]) -> None:
    """``use`` with a client whose server runs as a process of its own, as an agent's does."""
    from mcp import Client, StdioServerParameters

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "loraprof", "mcp"], env=environment, cwd=str(folder)
    )

    async def session() -> None:
        async with Client(command) as client:

            async def call(tool: str, progress: Any = None, **arguments: Any) -> tuple[bool, str]:
                done = await client.call_tool(tool, arguments, progress_callback=progress)
                return not done.is_error, "\n".join(part.text for part in done.content)

            await use(client, call)

    asyncio.run(asyncio.wait_for(session(), 300))


@pytest.mark.slow
def test_a_client_gets_answers_and_errors(tmp_path: Path) -> None:
    async def use(client: Any, call: Call) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"profile", "report", "explain", "compare", "fix", "estimate"}
        assert all(tool.description for tool in tools.values())
        assert "context" not in tools["report"].input_schema["properties"]

        good, text = await call("report", path=str(RECORDINGS[0]))
        assert good
        assert text.startswith("ANSWER ")
        assert len(text) < 8000
        good, text = await call("explain", id="L2")
        assert good
        assert "signature" in text
        good, text = await call("estimate", model="llama-3-8b", gpu="h100-sxm", rank=8)
        assert good
        assert "rank 8" in text
        assert len(text) < 8000

        base, new = map(str, RECORDINGS[:2])
        good, text = await call("compare", target=[base, base], fail_on="slower>3%")
        assert good, text
        good, text = await call("compare", target=[base, new])
        assert (good, text.count("\n")) == (False, 0)
        assert "exit code " in text
        good, text = await call("report", path=str(tmp_path / "none.json"))
        assert (good, text.count("\n")) == (False, 0)
        assert "exit code 5 (unreadable input): " in text
        good, text = await call("profile", target=["train.py"], folder=str(tmp_path / "none"))
        assert "exit code 2 (bad usage): " in text
        good, text = await call("estimate", model="-o")
        assert "exit code 2 (bad usage): -o" in text

    served(tmp_path, use)


@pytest.mark.slow
def test_a_client_profiles_a_script(tmp_path: Path) -> None:
    """What the script prints and reads is not the client's; what loraprof says of its progress is."""
    script = (Path(__file__).parents[1] / "examples" / "train.py").read_text()
    (tmp_path / "train.py").write_text(f"print('{{}}', flush=True)\n{script}")
    (tmp_path / "bad.py").write_text("raise ValueError('boom')\n")
    said = []

    async def heard(done: float, total: float | None, message: str | None) -> None:
        said.append(message)

    async def use(client: Any, call: Call) -> None:
        words = {"target": ["train.py", "--lr", "3e-4"], "folder": str(tmp_path)}
        good, text = await call("profile", heard, record="run.loraprof", steps=1, timed=3, **words)
        assert good, text
        assert text.startswith("ANSWER ")
        assert (tmp_path / "run.loraprof").is_dir()
        good, text = await call("profile", record="run.loraprof", **words)
        assert "exit code 2 (bad usage): run.loraprof: exists already" in text
        good, text = await call("profile", record="b.loraprof", target=["bad.py"], folder=str(tmp_path))
        assert not good
        assert "ValueError: boom" in text

    served(tmp_path, use)
    assert said


@pytest.mark.slow
def test_the_server_starts_without_torch() -> None:
    code = "import sys; from loraprof.integrations.mcp import server; server(); print('torch' in sys.modules)"
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stdout == "False\n"
