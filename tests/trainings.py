"""Unusual trainings that people write: each takes 26 steps of one small LoRA model and tells every loss."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

STEPS = 26
Tell = Callable[[torch.Tensor], None]


class LoRA(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.base = nn.Linear(width, width, device="cpu").requires_grad_(False)
        self.lora_A = nn.Linear(width, 4, bias=False, device="cpu")
        self.lora_B = nn.Linear(4, width, bias=False, device="cpu")
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.lora_B(self.lora_A(self.drop(x)))
        return out


class Task:
    """A model, its trained parameters, and the loss of the next batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(LoRA(), nn.GELU(), LoRA())
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self) -> torch.Tensor:
        loss: torch.Tensor = self.model(torch.randn(8, 16, device="cpu")).square().mean()
        return loss

    def backward(self) -> torch.Tensor:
        loss = self.loss()
        loss.backward()
        return loss

    def loop(self, optimizer: Any, tell: Tell) -> None:
        for _ in range(STEPS):
            tell(self.backward())
            optimizer.step()
            optimizer.zero_grad()


def plain(tell: Tell) -> None:
    task = Task()
    task.loop(torch.optim.AdamW(task.trained), tell)


def lbfgs(tell: Tell) -> None:
    task = Task()
    optimizer = torch.optim.LBFGS(task.trained, lr=0.1, max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        return task.backward()

    for _ in range(STEPS):
        tell(optimizer.step(closure))


class SAM(torch.optim.Optimizer):
    """Sharpness-aware: climbs, takes the gradient there, and lets another optimizer step from where it was."""

    def __init__(self, parameters: Iterable[torch.Tensor], base: type[torch.optim.Optimizer], **settings: Any) -> None:
        super().__init__(parameters, {"rho": 0.05, **settings})
        self.base = base(self.param_groups, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held if p.grad is not None]).norm() + 1e-12
        climbs = [p.grad * (0.05 / norm) for p in held if p.grad is not None]
        for p, climb in zip(held, climbs, strict=True):
            p.add_(climb)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, climb in zip(held, climbs, strict=True):
            p.sub_(climb)
        self.base.step()


def sharpness_aware(tell: Tell) -> None:
    task = Task()
    optimizer = SAM(task.trained, torch.optim.SGD, lr=0.1)
    for _ in range(STEPS):
        tell(task.backward())
        optimizer.step(task.backward)
        optimizer.zero_grad()


class ScheduleFree(torch.optim.Optimizer):
    """Keeps two points of every parameter and swaps them between training and evaluation."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "k": 0})

    def eval(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.data.lerp_(self.state[p]["z"], -0.1)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                z.sub_(p.grad, alpha=group["lr"])
                p.lerp_(z, 1 / group["k"])


def schedule_free(tell: Tell) -> None:
    task = Task()
    optimizer = ScheduleFree(task.trained, lr=0.1)
    task.loop(optimizer, tell)
    optimizer.eval()
    tell(task.loss())


def two_optimizers(tell: Tell) -> None:
    task = Task()
    first, second = torch.optim.AdamW(task.trained[:1]), torch.optim.SGD(task.trained[1:], lr=0.1)
    for _ in range(STEPS):
        tell(task.backward())
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()


def in_a_thread(tell: Tell) -> None:
    worker = threading.Thread(target=plain, args=(tell,))
    worker.start()
    worker.join()


def scaled(tell: Tell) -> None:
    task = Task()
    optimizer, scaler = torch.optim.AdamW(task.trained), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss()
        tell(loss)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def inside_backward(tell: Tell) -> None:
    task = Task()
    optimizers = {p: torch.optim.AdamW([p]) for p in task.trained}

    def step(p: torch.Tensor) -> None:
        optimizers[p].step()  # type: ignore[index]
        optimizers[p].zero_grad()  # type: ignore[index]

    for p in task.trained:
        hook: Any = p.register_post_accumulate_grad_hook
        hook(step)
    for _ in range(STEPS):
        tell(task.backward())


def on_another_default_device(tell: Tell) -> None:
    """Whatever is made without a device has no data."""
    torch.set_default_device("meta")
    try:
        plain(tell)
    finally:
        torch.set_default_device(None)


def in_double_precision(tell: Tell) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        plain(tell)
    finally:
        torch.set_default_dtype(torch.float32)


def without_torch_optim(tell: Tell) -> None:
    """No hook of torch sees its steps."""

    class Descent:
        def __init__(self, parameters: list[nn.Parameter]) -> None:
            self.parameters = parameters

        def step(self) -> None:
            for p in self.parameters:
                assert p.grad is not None
                p.data.sub_(p.grad, alpha=0.1)

        def zero_grad(self) -> None:
            for p in self.parameters:
                p.grad = None

    task = Task()
    task.loop(Descent(task.trained), tell)


def scripted(tell: Tell) -> None:
    """Modules of TorchScript take no hooks of their own."""
    task = Task()
    script: Any = torch.jit.script
    task.model = script(task.model)
    task.loop(torch.optim.AdamW(task.trained), tell)


def functional(tell: Tell) -> None:
    """A and B belong to no module; merged weights take the place of the model's for one call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)).requires_grad_(False)
    pairs = {f"{i}.weight": [torch.randn(s, requires_grad=True) for s in ((16, 4), (4, 16))] for i in (0, 2)}
    optimizer = torch.optim.AdamW([p for pair in pairs.values() for p in pair])
    for _ in range(STEPS):
        merged = {name: model.get_parameter(name) + b @ a for name, (b, a) in pairs.items()}
        loss = torch.func.functional_call(model, merged, (torch.randn(8, 16),)).square().mean()
        loss.backward()
        tell(loss)
        optimizer.step()
        optimizer.zero_grad()


RECORDED = (
    plain, lbfgs, sharpness_aware, schedule_free, two_optimizers, in_a_thread, scaled, inside_backward,
    on_another_default_device, in_double_precision, scripted, functional,
)  # fmt: skip
