"""A real TensorBoard with torch-tb-profiler reads an exported run: device times are there, to the microsecond."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from builders import Document, json_of, kernel, op, step, write
from recorded import recorded
from reports import REAL

import loraprof
from loraprof.cli.app import run

pytestmark = pytest.mark.slow
PLUGIN = "data/plugin/pytorch_profiler/"
KERNELS_US = {"gemm": 2_000, "relu": 4_500}


def hand_made() -> Document:
    """Two ops of one step, one kernel each; ``External id`` is what the plugin joins on."""
    host = [step(3, 0, 9_000_000), op("aten::mm", 50_000, 800_000), op("aten::relu", 900_000, 1_500_000)]
    device = [
        kernel(1_000_000, 3_000_000, launch=(100_000, 600_000)),
        kernel(3_000_000, 7_500_000, launch=(1_000_000, 1_200_000), name="relu"),
    ]
    document = json_of(host, device)
    for event in document["traceEvents"]:
        pair = {"aten::mm": 1, "aten::relu": 2}.get(event["name"]) or event["args"].get("correlation")
        event["args"] |= {"External id": pair} if pair else {}
        if event["cat"] == "kernel":
            event["args"] |= {"grid": [100, 1, 1], "block": [128, 1, 1], "blocks per SM": 1.0}
    return document


class Board:
    """Reads a TensorBoard's endpoints."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}/"

    def get(self, path: str, **query: str) -> Any:
        url = f"{self.base}{path}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = answer.read()
            packed = answer.headers.get("Content-Encoding") == "gzip"
        return json.loads(gzip.decompress(data) if packed else data)

    def wait(self, count: int, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
        """Until the plugin has loaded ``count`` runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            try:
                if len(self.get(PLUGIN + "runs")["runs"]) == count:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError(f"TensorBoard did not load {count} runs")

    def device_us(self, name: str, worker: str = "loraprof_0") -> dict[str, int]:
        """Device time of every op that has any."""
        where = {"run": name, "worker": worker, "span": "1"}
        table = self.get(PLUGIN + "operation/table", group_by="Operation", **where)["data"]
        return {row["name"]: row["device_self_duration"] for row in table if row["device_self_duration"]}

    def kernels_us(self, name: str) -> dict[str, float]:
        where = {"run": name, "worker": "loraprof_0", "span": "1"}
        return dict(self.get(PLUGIN + "kernel", group_by="Kernel", **where)["total"]["rows"])


@contextmanager
def board(logdir: Path, runs: int) -> Iterator[Board]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--load_fast=false"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        shown = Board(port)
        shown.wait(runs, process)
        yield shown
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_tensorboard_shows_device_times_curves_and_the_diagnosis(tmp_path: Path) -> None:
    logdir = tmp_path / "runs"
    paths = {"hand": write(tmp_path / "hand.json", hand_made()), "cpu": recorded("tiny-llama-cpu")}
    ddp = REAL / "a100_resnet_ddp_train.json.gz"
    if ddp.exists():
        paths["ddp"] = ddp
    for name, path in paths.items():
        assert run(["export", str(path), "--to", "tensorboard", "-o", str(logdir / name), "--quiet"]) == 0
    (logdir / "unchanged").mkdir()
    write(logdir / "unchanged" / "raw_0.1.pt.trace.json", hand_made())
    with board(logdir, len(paths) + 1) as shown:
        assert shown.get("data/plugins_listing")["loraprof"]["enabled"]
        assert shown.get("data/plugin/loraprof/runs") == sorted(paths)
        assert shown.device_us("hand") == {"aten::mm": KERNELS_US["gemm"], "aten::relu": KERNELS_US["relu"]}
        assert shown.kernels_us("hand") == KERNELS_US
        assert shown.device_us("unchanged", "raw_0") == {}  # what the export is for
        assert "Operator" in shown.get(PLUGIN + "views", run="cpu")
        assert "Kernel" not in shown.get(PLUGIN + "views", run="cpu")
        if "ddp" in paths:
            assert sum(shown.device_us("ddp").values()) > 100_000
            assert "aten::convolution_backward" in shown.device_us("ddp")
        for name, path in paths.items():
            report = loraprof.diagnose(path)
            points = shown.get("data/plugin/scalars/scalars", tag="step/wall_ms", run=name)
            assert [value for _, _, value in points] == pytest.approx([s.wall_ns / 1e6 for s in report.steps], rel=1e-6)
            (text,) = shown.get("data/plugin/text/text", tag="diagnosis", run=name)
            assert "Where the " in text["text"]
            assert "details" not in text["text"]
            assert "\\" not in text["text"]


def test_the_tab_lists_runs_with_a_page_and_serves_no_other_file(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from werkzeug.test import Client

    from loraprof.integrations.tensorboard import LoraprofPlugin

    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "without").mkdir()
    plugin = LoraprofPlugin(SimpleNamespace(logdir=str(tmp_path)))
    assert not plugin.is_active()
    path = write(tmp_path / "hand.json", hand_made())
    assert run(["export", str(path), "--to", "tensorboard", "-o", str(tmp_path / "a" / "b"), "--quiet"]) == 0
    assert plugin.is_active()
    apps = {name: Client(app) for name, app in plugin.get_plugin_apps().items()}
    assert apps["/runs"].get("/").json == ["a/b"]
    page = apps["/page"].get("/?run=a/b")
    assert page.data == (tmp_path / "a" / "b" / "loraprof.page.html").read_bytes()
    assert [apps["/page"].get(f"/?run={name}").status_code for name in ("", "..", "a", "../secret.txt")] == [404] * 4
    script = apps["/index.js"].get("/")
    assert script.content_type == "application/javascript"
    assert "http" not in script.text  # nothing from elsewhere


@pytest.mark.browser
def test_the_tab_shows_the_page_and_asks_nobody_but_tensorboard(browser: Any, tmp_path: Path) -> None:
    path, logdir = write(tmp_path / "hand.json", hand_made()), tmp_path / "runs"
    assert run(["export", str(path), "--to", "tensorboard", "-o", str(logdir / "hand"), "--quiet"]) == 0
    with board(logdir, 1) as shown:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        ours = lambda frame: "plugin/loraprof/page" in frame.url  # noqa: E731
        with page.expect_event("framenavigated", ours, timeout=60_000) as navigated:
            page.goto(f"{shown.base}#loraprof")
        frame = navigated.value
        frame.wait_for_selector("html[data-ready]", timeout=60_000)
        assert loraprof.diagnose(path).verdict.sentence in frame.locator("h1").inner_text()
        assert frame.locator("#timeline canvas").count() == 1
        page.close()
    assert [url for url in asked if not url.startswith((shown.base, "data:", "blob:"))] == []
