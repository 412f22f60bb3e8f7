"""Runs of loraprof that are ended at random moments, and what each leaves behind.

A seed gives the same targets, signals and moments everywhere; a moment is a time, or so many files after the start, so
that the short windows in which something is being written are met as well.
"""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import warm

from loraprof.diagnosis.load import diagnose
from loraprof.errors import LoraprofError

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ELSEWHOSE: Final = re.compile(r"torchelastic_.*|[a-z0-9_]{8}")
PATIENCE_S: Final = 150.0  # within which what was told to end does
MARK: Final = "LORAPROF_TEST_KILL"
SCRIPT: Final = """
import torch
from torch import nn


class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 16).requires_grad_(False)
        self.a, self.b = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


model = nn.Sequential(Adapted(), Adapted())
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
for _ in range(1000):
    optimizer.zero_grad()
    model(torch.ones(4, 16)).square().mean().backward()
    optimizer.step()
"""


@dataclass(frozen=True, slots=True)
class Target:
    """``words`` follow ``python -m``; it is ended within ``seconds``, or when ``files`` have come and gone."""

    words: Sequence[str]
    seconds: float
    files: int


RECORD: Final = ("loraprof", "profile", "--quiet", "--force", "--record", "r.loraprof")
TORCHRUN: Final = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
TINY: Final = (
    *("tiny-llama-cpu", "--layers", "1", "--batch", "1", "--seq", "8", "--set", "config.hidden_size=32"),
    *("--set", "config.num_attention_heads=2", "--set", "config.intermediate_size=32", "--set", "config.vocab_size=64"),
)
TARGETS: Final = {
    "profile script": Target((*RECORD, "s.py"), 4, 14),
    "profile workload": Target((*RECORD, *TINY), 6, 14),
    "compare": Target(("loraprof", "compare", "--arms", "lora,full", "--budget", "1s", "s.py"), 8, 8),
    "sweep": Target(("loraprof", "sweep", *TINY, "--over", "rank=2,4", "--budget", "1s", "--out", "cells"), 8, 10),
    "fix": Target(("loraprof", "fix", "--budget", "20s", "--out", "tried", "s.py"), 8, 10),
    "torchrun": Target((*TORCHRUN, *RECORD, "s.py"), 8, 10),
}


@dataclass
class Tally:
    """What came of the kills. All lists must be empty."""

    killed: Counter[str] = field(default_factory=Counter)
    finished: int = 0  # before the signal came
    recordings: int = 0  # that could be read afterwards
    met: set[Path] = field(default_factory=set)  # what killed runs left for the next
    corrupt: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # to run at all
    left: list[str] = field(default_factory=list)  # after the next run

    def wrong(self) -> list[str]:
        return [*self.corrupt, *self.orphans, *self.hung, *self.refused, *self.left]

    def __str__(self) -> str:
        by = ", ".join(f"{count} {name}" for name, count in self.killed.items())
        wrong = ("corrupt", "orphans", "hung", "refused", "left")
        bad = ", ".join(f"{len(getattr(self, what))} {what}" for what in wrong)
        whole = f"{self.finished} finished first, {self.recordings} recordings read, {len(self.met)} leftovers met"
        return f"{self.killed.total()} killed ({by}), {whole}; {bad}"


class Range:
    """Where the runs of one target are ended: a working folder and a temporary one, used by all of them."""

    def __init__(self, folder: Path, name: str, tally: Tally) -> None:
        self.name, self.target, self.tally = name, TARGETS[name], tally
        self.work, self.scratch, self.logs = folder / "work", folder / "tmp", folder / "logs"
        for one in (self.work, self.scratch, self.logs):
            one.mkdir(parents=True)
        (self.work / "s.py").write_text(SCRIPT)
        self._env = {"TMPDIR": str(self.scratch), "XDG_CACHE_HOME": str(folder / "cache"), MARK: str(folder)}
        self._env |= {"KINETO_LOG_LEVEL": "99", "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}

    def start(self) -> warm.Started:
        return warm.started(self.logs, "-m", *self.target.words, cwd=self.work, **self._env)

    def kill(self, how: signal.Signals, dice: random.Random) -> None:
        """One run, ended by one signal."""
        run = self.start()
        self._wait(run.pid, dice)
        everyone = how is signal.SIGINT or (how is signal.SIGKILL and self.name == "torchrun")
        with suppress(ProcessLookupError):
            (os.killpg if everyone else os.kill)(run.pid, how)
        self._ended(run, how.name)
        self.tally.met |= self._leftovers()
        self._read()

    def next_run(self) -> None:
        """Begins as any other, and is told to end when what the killed ones left is gone."""
        left = self._leftovers()
        run = self.start()
        end = time.monotonic() + PATIENCE_S
        while _lives(run.pid) and time.monotonic() < end and any(map(os.path.lexists, left)):
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGTERM)
        self._ended(run, None)
        self.tally.left += [f"{self.name}: {path}" for path in left if os.path.lexists(path)]
        self._read()

    def _wait(self, pid: int, dice: random.Random) -> None:
        """Until the moment."""
        by_time, seconds = dice.random() < 0.4, dice.uniform(0, self.target.seconds)
        end = time.monotonic() + (seconds if by_time else PATIENCE_S)
        left = dice.randint(1, self.target.files)
        before = set(self._files())
        while (by_time or left > 0) and time.monotonic() < end and _lives(pid):
            time.sleep(0.002)
            now = set(self._files())
            left -= len(before ^ now)
            before = now

    def _ended(self, run: warm.Started, how: str | None) -> None:
        """Waits for the run and for all that it started; who does not end is ended here, and counted."""
        end = time.monotonic() + PATIENCE_S
        while _lives(run.pid) and time.monotonic() < end:
            time.sleep(0.01)
        if _lives(run.pid):
            self.tally.hung.append(f"{self.name}, {how}: {run.said()[1][-300:]}")
            os.kill(run.pid, signal.SIGKILL)
        code = run.wait()
        while (family := self._family(run.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid, command in family.items():
            self.tally.orphans.append(f"{self.name}, {how}: {command}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if how is None:
            return
        if code in (2, 4, 5):
            self.tally.refused.append(f"{self.name}: {run.said()[1][-300:]}")
        self.tally.finished += code == 0
        self.tally.killed[how] += 1

    def _family(self, leader: int) -> dict[int, str]:
        """Processes that a run started and that live: they share its session or its environment."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                pid = int(folder.name)
                marked = f"{MARK}={self._env[MARK]}\0".encode() in (folder / "environ").read_bytes()
                if _lives(pid) and (marked or os.getsid(pid) == leader):
                    found[pid] = (folder / "cmdline").read_text().replace("\0", " ")[:200]
        return found

    def _files(self) -> list[str]:
        """All in the two folders; what goes while one looks is passed over."""
        walked = (walk for folder in (self.work, self.scratch) for walk in os.walk(folder))
        return [os.path.join(at, name) for at, folders, files in walked for name in (*folders, *files)]

    def _leftovers(self) -> set[Path]:
        """Whatever lies in the temporary folder but torchrun's own and the file by which Python tries whether it can
        write there (``tempfile._get_default_tempdir``), and halves of files and recordings."""
        scratch = (path for path in self.scratch.iterdir() if not ELSEWHOSE.fullmatch(path.name))
        return {*scratch, *self.work.rglob(".*.tmp-*")}

    def _read(self) -> None:
        """Every recording and every JSON that has its name is whole."""
        for place in self.work.rglob("*"):
            if any(".tmp-" in part for part in place.parts):
                continue
            try:
                if place.suffix == ".loraprof":
                    diagnose(place)
                    self.tally.recordings += 1
                elif place.suffix == ".json":
                    msgspec.json.decode(place.read_bytes())
            except (LoraprofError, msgspec.DecodeError) as error:
                self.tally.corrupt.append(f"{self.name}: {place.name}: {error}")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_often(folder: Path, name: str, times: int, seed: int) -> Tally:
    """Ends ``times`` runs of one target, then lets the next one clear up."""
    tally, dice = Tally(), random.Random(f"{name} {seed}")
    field = Range(folder, name, tally)
    for number in range(times):
        field.kill(SIGNALS[number % len(SIGNALS)], dice)
    field.next_run()
    return tally
