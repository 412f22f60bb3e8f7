"""Many ranks of one simulated run: in lockstep at their collectives, one of them late, each on a clock of its own.

    on the slow rank   the last kernel before a step's first collective takes ``slow_ns`` longer
    on the others      that collective does: it waits

Both are one warp of time, ``t + slow_ns * (pivots up to t)``, with different pivots; so all ranks leave every
collective together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from builders import Document, text_of, us

from loraprof.model.recording import Recording
from synthetic.faults import events, gpu_events, mapped
from synthetic.simulate import Synthetic

BASE_NS = 1_790_857_026_000_000_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """``collective``, ``elements`` (bf16): what every communication kernel is. ``offsets_ns``: clocks by rank."""

    ranks: int
    slow: int | None = 1
    slow_ns: int = 3_000_000
    collective: str = "allreduce"
    elements: int = 4_000_000
    offsets_ns: dict[int, int] = field(default_factory=dict)
    numbered: bool = True  # NCCL sequence numbers in the trace
    machines: Callable[[int], str] = lambda rank: ""


def save(fleet: Fleet, made: Synthetic, target: Path, only: Iterable[int] | None = None) -> Path:
    """Writes a recording of many ranks; ``only`` some of them."""
    target.mkdir(parents=True)
    shared = {key: value for key, value in made.document.items() if key != "baseTimeNanoseconds"}
    plain = mapped(shared, _named(fleet))
    late, waiting = warped(plain, fleet.slow_ns, "work"), warped(plain, fleet.slow_ns, "wait")
    texts = {True: text_of(late), False: text_of(waiting if fleet.slow is not None else plain)}
    for rank in range(fleet.ranks) if only is None else only:
        head = text_of(_head(fleet, rank))[1:-1]
        text = texts[rank == fleet.slow]
        (target / f"rank{rank}.trace.json").write_bytes(b"{" + head + b"," + text[1:])
        (target / f"rank{rank}.json").write_bytes(msgspec.json.encode(recording(fleet, made.recording, rank)))
    (target / "recording.json").write_bytes(msgspec.json.encode(recording(fleet, made.recording, 0)))
    return target


def recording(fleet: Fleet, one: Recording, rank: int) -> Recording:
    where = {"rank": rank, "world_size": fleet.ranks, "launch": "abc", "machine": fleet.machines(rank)}
    environment = msgspec.structs.replace(one.environment, **where)
    timing, later = one.timing, fleet.slow_ns if fleet.slow is not None else 0
    if timing is not None:
        timing = msgspec.structs.replace(timing, samples_ns=[ns + later for ns in timing.samples_ns])
    return msgspec.structs.replace(one, environment=environment, first_step=17, timing=timing)


def _head(fleet: Fleet, rank: int) -> Document:
    ranks = list(range(fleet.ranks))
    group = {"pg_name": "0", "pg_desc": "default_pg", "pg_size": fleet.ranks, "ranks": ranks}
    info = {"backend": "nccl", "rank": rank, "world_size": fleet.ranks, "pg_count": 1, "pg_config": [group]}
    return {"distributedInfo": info, "baseTimeNanoseconds": BASE_NS + fleet.offsets_ns.get(rank, 0)}


def _named(fleet: Fleet) -> Callable[[Document], Document]:
    """Collectives with the arguments that torch gives them, numbered in their order."""
    count = iter(range(1 << 30))

    def change(event: Document) -> Document:
        if not str(event.get("name", "")).startswith("nccl"):
            return event
        args = {
            "Collective name": fleet.collective,
            "dtype": "BFloat16",
            "In msg nelems": fleet.elements,
            "Out msg nelems": fleet.elements,
            "Group size": fleet.ranks,
            "Process Group Name": "0",
        }
        if fleet.numbered:
            args["Seq"] = next(count)
        return {**event, "args": event["args"] | args}

    return change


def warped(document: Document, ns: int, where: str) -> Document:
    """Each step longer by ``ns``: in the work before its first collective, or in waiting inside it."""
    pivots = [_pivot(document, step, where) for step in _steps(document)]

    def later(t: int) -> int:
        return t + ns * sum(t >= pivot for pivot in pivots)

    def change(event: Document) -> Document:
        if "ts" not in event:
            return event
        start = int(event["ts"] * 1000)
        end = start + int(event.get("dur", 0) * 1000)
        moved = {"ts": us(later(start))}
        return event | moved | ({"dur": us(later(end) - later(start))} if "dur" in event else {})

    return mapped(document, change)


def _steps(document: Document) -> list[tuple[int, int]]:
    marks = [e for e in events(document) if e["name"].startswith("ProfilerStep#")]
    return [(int(e["ts"] * 1000), int((e["ts"] + e["dur"]) * 1000)) for e in marks]


def _pivot(document: Document, step: tuple[int, int], where: str) -> int:
    """From when on everything is late: the end of the first collective, or of the kernel before its start."""
    spans = [(int(e["ts"] * 1000), int((e["ts"] + e["dur"]) * 1000), str(e["name"])) for e in gpu_events(document)]
    start, end, _ = next(s for s in spans if step[0] <= s[0] < step[1] and s[2].startswith("nccl"))
    return end if where == "wait" else max(e for s, e, n in spans if e <= start and not n.startswith("nccl"))
