"""Which colour and which words does a role or an idle cause get, in every format?

Roles and causes are grouped so that the bar has few enough segments to read; the tables keep every one apart.
Colours are Okabe and Ito's (distinguishable with every common colour blindness), lightened for dark pages.
"""

from typing import Final

from msgspec import Struct


class Tone(Struct, frozen=True):
    """``light`` and ``dark`` are hex colours for pages of that kind; ``ansi`` is one of the terminal's own, which its
    theme keeps readable, and ``glyph`` tells what fills a bar where there is no colour."""

    label: str
    light: str
    dark: str
    ansi: str = ""
    glyph: str = "█"


TONES: Final[dict[str, Tone]] = {
    "base": Tone("base linears", "#0072b2", "#4ba3d9", "blue", "█"),
    "adapter": Tone("adapter", "#d55e00", "#ef8536", "red", "▓"),
    "attention": Tone("attention and positions", "#009e73", "#2fbf94", "green", "█"),
    "block": Tone("norms, activations, adds", "#7aa6a1", "#8fc1bb", "cyan", "█"),
    "head": Tone("embedding, head, loss", "#8a5fb0", "#b48ad6", "magenta", "█"),
    "dequant": Tone("dequantisation", "#8c6d31", "#c4a35a", "magenta", "▓"),
    "optimizer": Tone("optimizer and clipping", "#cc79a7", "#e096bf", "magenta", "█"),
    "comm": Tone("communication", "#b8a300", "#f0e442", "yellow", "▒"),
    "rest": Tone("copies and other work", "#6b7280", "#9aa3b2", "", "█"),
    "host": Tone("idle: the host is late", "#b3261e", "#e5675e", "red", "░"),
    "wait": Tone("idle: sync, data, memory", "#a8633a", "#d29a74", "yellow", "░"),
    "queue": Tone("idle: between queued kernels", "#9ca3af", "#6f7887", "", "░"),
    "unknown": Tone("idle: profiler or unknown", "#c3c7cf", "#4d5563", "", "░"),
    "good": Tone("faster", "#1a7f4b", "#4cc38a", "green", "█"),
    "bad": Tone("slower", "#b3261e", "#e5675e", "red", "█"),
    "unsure": Tone("undecided", "#6b7280", "#9aa3b2", "", "▒"),
}

# Without a device nothing is launched: there idle means outside every op.
CPU_LABELS: Final[dict[str, str]] = {
    "host": "idle: Python between ops",
    "wait": "idle: waiting (data, other ranks)",
}

_ROLES: Final = {  # by tone
    "base": ("base.linear",),
    "adapter": ("adapter.down", "adapter.up", "adapter.elementwise"),
    "attention": ("attention", "position"),
    "block": ("norm", "activation", "residual", "dropout", "pooling"),
    "head": ("embedding", "head", "loss"),
    "dequant": ("dequant",),
    "optimizer": ("optimizer", "grad_clip"),
    "comm": ("comm",),
    "rest": ("copy", "other"),
}
_CAUSES: Final = {  # by tone
    "host": ("python", "framework", "launch_api", "launch_latency"),
    "wait": ("sync", "data", "allocator"),
    "queue": ("turnaround", "queued"),
    "unknown": ("profiler", "unknown"),
}
ROLE_TONES: Final = {role: tone for tone, roles in _ROLES.items() for role in roles}
CAUSE_TONES: Final = {cause: tone for tone, causes in _CAUSES.items() for cause in causes}

CAUSE_WORDS: Final[dict[str, str]] = {
    "python": "Python code between the ops",
    "framework": "inside an op, before its kernel is launched",
    "launch_api": "the launch call itself",
    "launch_latency": "launched, not yet started",
    "sync": "the host waits for the device, or for other ranks",
    "data": "the data loader",
    "allocator": "device memory allocation or free",
    "profiler": "the profiler's own work",
    "turnaround": "from one queued kernel to the next",
    "queued": "queued, held back longer than the turnaround",
    "unknown": "no launch record explains it",
}
CPU_CAUSE_WORDS: Final = {**CAUSE_WORDS, "sync": "waiting for other ranks", "python": "outside every op"}

SEVERITY_TONES: Final[dict[str, str]] = {"blocker": "bad", "major": "adapter", "minor": "comm", "info": "base"}
