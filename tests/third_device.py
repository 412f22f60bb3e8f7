"""A device that loraprof has never heard of, in a process of its own: ``python tests/third_device.py OUT``.

torch's own hook for accelerators gives it a name and autograd's support; its tensors hold the CPU's, and every op runs
there. What loraprof needs to know of it is one class and one line of its registry.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

from loraprof.capture.device import kinds
from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.protocol import Allocator
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.write import Writer
from loraprof.model.recording import DeviceInfo, Workload

NAME = "third"


class Held(torch.Tensor):
    """A tensor of the device."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls: Any, raw: torch.Tensor) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass
        made = make(cls, raw.shape, strides=raw.stride(), dtype=raw.dtype, device=f"{NAME}:0")
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        out = func(*tree_map(_inside, args), **tree_map(_inside, kwargs or {}))
        first = func._schema.arguments[0].alias_info if func._schema.arguments else None
        if first is not None and first.is_write:
            return None if isinstance(args[0], list | tuple) else args[0]
        return tree_map(lambda x: cls(x) if isinstance(x, torch.Tensor) else x, out)


def _inside(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x.raw if isinstance(x, Held) else x


def _factory(op: Any) -> Any:
    def make(*sizes: Any, device: Any = None, **how: Any) -> torch.Tensor:
        return Held(op(*sizes, device="cpu", **{k: v for k, v in how.items() if k != "pin_memory"}))

    return make


class Third(Cpu):
    """Counts what it is asked."""

    asked: list[str] = []  # noqa: RUF012
    clock = "third_clock"

    @classmethod
    def present(cls) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    def info(self) -> DeviceInfo:
        return DeviceInfo(kind=NAME, name="A third kind", memory_bytes=1 << 30)

    def synchronise(self) -> None:
        self.asked.append("synchronise")

    def mark(self) -> int:
        self.asked.append("mark")
        return super().mark()

    def reset_peak(self) -> None:
        self.asked.append("reset_peak")

    def allocator(self) -> Allocator | None:
        return Allocator(peak_bytes=1 << 20, reserved_bytes=2 << 20, retries=0, total_bytes=1 << 30)

    @contextmanager
    def steady_memory(self, nbytes: int) -> Iterator[None]:
        self.asked.append("steady_memory")
        yield


class LoRA(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.a, self.b = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.b(self.a(x))
        return out


def moved(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                module._parameters[name] = nn.Parameter(Held(p.detach()), requires_grad=p.requires_grad)
    return model


def main(out: Path) -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    own = torch.library.Library("aten", "IMPL")
    for op in ("empty.memory_format", "empty_strided"):
        own.impl(op, _factory(getattr(torch.ops.aten, op.partition(".")[0])), "PrivateUse1")
    kinds.KINDS[NAME] = Third  # the one line
    torch.manual_seed(0)
    model = moved(nn.Sequential(LoRA(16), nn.GELU(), LoRA(16)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with Session(Plan()) as session:
        for _ in range(40):
            if session.over:
                break
            model(Held(torch.randn(8, 16))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    if session.failure is not None:
        raise session.failure
    Writer(out, False, print).write(session, Workload(name="third", kind="script", argv=[]))
    print(sorted(set(Third.asked)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
