"""What does ``torch.compile`` do in this process: which frames, when, how long, made of what?

``torch._dynamo`` calls back when it starts and ends to compile; between the two loraprof's hooks are taken off, so that
no compiled code knows of them. Its counters tell graph breaks. Set before anything is compiled: C++ kernels open a
range of their own (``cpp.enable_kernel_profile``), and graphs are not taken from inductor's graph cache, whose entries
do not say which modules they were made from. Machine code still comes from the caches.
"""

import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from loraprof.capture.compiled.provenance import Provenance
from loraprof.model.compilation import Compilation, CompilePass

MOST_REASONS: Final = 5
_COMPILE_ID: Final = re.compile(r"(\d+)/(\d+)")
_SETTINGS: Final = (  # module, attribute, value, the environment variable by which a user sets it himself
    ("torch._inductor.config", "cpp.enable_kernel_profile", True, "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE"),
    ("torch._inductor.config", "fx_graph_cache", False, "TORCHINDUCTOR_FX_GRAPH_CACHE"),
    ("torch._functorch.config", "enable_autograd_cache", False, "TORCHINDUCTOR_AUTOGRAD_CACHE"),
)


class CompileWatch:
    """``pause`` and ``resume`` take the caller's own hooks off and on around every compilation."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause, self._resume = pause, resume
        self.provenance = Provenance()
        self.compile_ns = self.compilations = self.recompilations = 0
        self._seen: set[str] = set()
        self._began: int | None = None
        self._handler: Any = None
        self._restore: list[tuple[Any, str, Any]] = []
        self._passes: list[CompilePass] = []
        self._now: tuple[str, int, tuple[int, int, int, int]] | None = None
        self._timed_ns: list[int] = []
        self._step_began_ns = 0
        self.notes: list[str] = []

    def install(self) -> None:
        """Imports ``torch._dynamo``, as every optimizer does when it is built."""
        try:
            import torch._dynamo.callback as callback

            self._handler = callback.callback_handler
            self._handler.register_start_callback(self._start)
            self._handler.register_end_callback(self._end)
        except (ImportError, AttributeError):
            self.notes.append("this torch does not say when it compiles: compile times and recompilations are unknown")
        self._configure()

    def remove(self) -> None:
        """Safe to call at any moment, more than once."""
        if self._handler is not None:
            self._handler.remove_start_callback(self._start)
            self._handler.remove_end_callback(self._end)
            self._handler = None
        self.provenance.stop()
        for owner, attribute, value in self._restore:
            setattr(owner, attribute, value)
        self._restore.clear()

    def _configure(self) -> None:
        for module, setting, value, variable in _SETTINGS:
            *groups, attribute = setting.split(".")
            try:
                owner: Any = importlib.import_module(module)
                for group in groups:
                    owner = getattr(owner, group)
                before = getattr(owner, attribute)
            except (ImportError, AttributeError):
                continue
            if variable not in os.environ:
                self._restore.append((owner, attribute, before))
                setattr(owner, attribute, value)
            elif before != value:
                self.notes.append(f"{variable} is set: compiled kernels may not be attributed")

    def _start(self, *args: Any) -> None:
        self._pause()
        self.provenance.listen()
        frame = _frame_of(args)
        if frame is not None and frame not in self._seen:
            self._seen.add(frame)
            self.compilations += 1
            self.recompilations += not frame.endswith("/0")
        self._began = time.perf_counter_ns()

    def _end(self, *_: Any) -> None:
        if self._began is not None:
            self.compile_ns += time.perf_counter_ns() - self._began
            self._began = None
        self._resume()

    @property
    def compiled(self) -> bool:
        """Whether anything was compiled so far."""
        return bool(_counter("stats").get("unique_graphs"))

    def begin(self, name: str) -> None:
        """A new pass begins with the next step; the one before is complete."""
        self._close()
        self._now = name, 0, self._counts()
        self._step_began_ns = self.compile_ns

    def step(self) -> None:
        """A step of the current pass has ended."""
        if self._now is not None:
            name, steps, counts = self._now
            self._now = name, steps + 1, counts
            if name == "timing":
                self._timed_ns.append(self.compile_ns - self._step_began_ns)
        self._step_began_ns = self.compile_ns

    def _counts(self) -> tuple[int, int, int, int]:
        return self.compilations, self.recompilations, graph_breaks(), self.compile_ns

    def _close(self) -> None:
        if self._now is None:
            return
        name, steps, before = self._now
        graphs, recompiled, breaks, ns = (b - a for a, b in zip(before, self._counts(), strict=True))
        self._now = None
        if steps:
            self._passes.append(
                CompilePass(
                    name=name,
                    steps=steps,
                    compilations=graphs,
                    recompilations=recompiled,
                    graph_breaks=breaks,
                    compile_ns=ns,
                )
            )

    def compilation(self) -> Compilation | None:
        """Everything but the graphs; None where nothing was compiled."""
        self._close()
        if not self.compiled:
            return None
        failed = ["what this torch's compiler says of its kernels could not be read"] * self.provenance.failed
        return Compilation(
            passes=self._passes,
            timed_ns=self._timed_ns,
            recompile_reasons=_distinct(_recompile_reasons()),
            break_reasons=_distinct(_break_reasons()),
            notes=[*self.notes, *failed],
        )


def graph_breaks() -> int:
    """Places at which a graph was cut: continuations that were compiled, or reasons that were given."""
    return max(len(_counter("resumes")), len(_counter("graph_break")))


def _counter(name: str) -> dict[str, int]:
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return dict(dynamo.counters[name]) if dynamo is not None else {}


def _frame_of(args: tuple[Any, ...]) -> str | None:
    """ "0/1" of what is being compiled: frame 0, the second time."""
    compile_id = getattr(args[0], "compile_id", None) if args else None
    if compile_id is None:
        from torch._guards import CompileContext

        compile_id = CompileContext.current_compile_id()
    found = _COMPILE_ID.search(str(compile_id))
    return found[0] if found else None


def _recompile_reasons() -> Iterator[str]:
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    for metrics in dynamo.get_compilation_metrics() if dynamo is not None else ():
        reason = getattr(metrics, "recompile_reason", None)
        if reason:
            yield str(reason)


def _break_reasons() -> Iterator[str]:
    yield from _counter("graph_break")
    for name in _counter("resumes"):
        yield name.removeprefix("torch_dynamo_resume_").replace("_at_", " at line ").replace("in_", "in ", 1)


def _distinct(reasons: Iterator[str]) -> list[str]:
    """First lines, without the code that dynamo appends; the last ones first."""
    lines = (re.sub(r"\s{2,}#.*", "", text.strip().split("\n", 1)[0])[:160] for text in reversed(list(reasons)))
    return list(dict.fromkeys(lines))[:MOST_REASONS]
