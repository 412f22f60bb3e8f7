"""What does a trace file say outside its events? Values of any type: what is no count counts as not said."""

from typing import Any

from msgspec import Struct

from loraprof.model.trace import DeviceFacts, Group
from loraprof.store.kineto.nanoseconds import LIMIT_NS


class Facts(Struct, frozen=True):
    """What the file says outside its events."""

    gpus: tuple[DeviceFacts, ...]
    base_ns: int | None
    rank: int | None
    world_size: int | None
    groups: tuple[Group, ...]
    rocm: bool


def facts_of(values: dict[str, Any]) -> Facts:
    """What the other top-level keys say; anything of the wrong type counts as not said."""
    listed, ranks = values.get("deviceProperties"), values.get("distributedInfo")
    properties = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
    info = ranks if isinstance(ranks, dict) else {}
    gpus = {gpu.index: gpu for gpu in map(_gpu, properties) if gpu is not None}
    amd = any(word in gpu.name for gpu in gpus.values() for word in ("AMD", "Instinct", "Radeon"))
    return Facts(
        gpus=tuple(gpus[index] for index in sorted(gpus)),
        base_ns=_count(values, "baseTimeNanoseconds"),
        rank=_count(info, "rank"),
        world_size=_count(info, "world_size"),
        groups=_groups(info.get("pg_config")),
        rocm=amd or any(key.startswith(("hip_", "roctracer", "rocprof")) for key in values),
    )


def _groups(listed: Any) -> tuple[Group, ...]:
    out = []
    for entry in listed if isinstance(listed, list) else []:
        size = _count(entry, "pg_size") if isinstance(entry, dict) else None
        if size is None:
            continue
        ranks = entry.get("ranks")
        known = isinstance(ranks, list) and len(ranks) == size and all(natural(rank) is not None for rank in ranks)
        out.append(Group(text(entry.get("pg_name")), size, tuple(ranks) if known else ()))
    return tuple(out)


def _gpu(entry: dict[str, Any]) -> DeviceFacts | None:
    index, sms = _count(entry, "id"), _count(entry, "numSms")
    major, minor = _count(entry, "computeMajor"), _count(entry, "computeMinor")
    if index is None:
        return None
    per_sm = _count(entry, "maxThreadsPerMultiprocessor")
    if sms is None and per_sm is not None and per_sm < 1024:  # the Python exporter writes the SM count there
        sms = per_sm
    return DeviceFacts(
        index=index,
        name=text(entry.get("name")),
        memory_bytes=_count(entry, "totalGlobalMem"),
        sms=sms or None,
        capability=None if major is None or minor is None else (major, minor),
    )


def _count(entry: dict[str, Any], key: str) -> int | None:
    return natural(entry.get(key))


def text(value: Any) -> str:
    return "" if value is None else str(value)


def natural(value: Any) -> int | None:
    number = integer(value)
    return number if number is not None and number >= 0 else None


def integer(value: Any) -> int | None:
    return value if type(value) is int and -LIMIT_NS <= value <= LIMIT_NS else None
