"""What of a trace may be handed on? Of events the fields named here, numbers to the last digit as they stand and names
by their words; every other field, argument and top-level value is left out."""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from loraprof.store.kineto.events import DEVICE_CODES, HOST_CODES, NOT_WORK
from loraprof.store.kineto.rewrite import Change, Choose
from loraprof.store.redaction.words import Pseudonyms

Clean = Callable[[Pseudonyms, Any], Any]

_NUMBER = r"-?\d++(?:\.\d++)?+(?:[eE][-+]?\d++)?+"
_ATOM = rf'(?:{_NUMBER}|"{_NUMBER}"|"\[[\d, ]*+\]"|true|false|null|"")'
_NUMERIC = re.compile(rf"[\[\]\s,]*+(?:{_ATOM}(?:[\[\]\s,]++{_ATOM})*+)?+[\[\]\s,]*+".encode())
_CATEGORIES: Final = frozenset((*HOST_CODES, *DEVICE_CODES, *NOT_WORK))
_FRAME = re.compile(r"nn\.Module: \w+|(torch|transformers|peft)/[\w/]+\.py\(\d+\): \w+")  # the rest are people's files
_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLAIN: Final = ("ts", "dur", "tts", "tdur", "id", "id2", "bp", "s")
_WORD = re.compile(rb'"[a-zA-Z]{1,2}"')  # of a phase, a flow's binding, an instant's scope
_NUMBERS: Final = frozenset(
    (
        *("External id", "Ev Idx", "Record function id", "Sequence number", "Fwd thread id", "correlation", "cbid"),
        *("device", "context", "stream", "queued", "priority", "grid", "block", "registers per thread"),
        *("shared memory", "blocks per SM", "warps per SM", "est. achieved occupancy %", "graph node id", "graph id"),
        *("bytes", "memory bandwidth (GB/s)", "Python id", "Python parent id", "Python module id", "Python thread"),
        *("Input Dims", "Input Strides", "kernel_num_gb", "kernel_flop", "Group size", "Group Ranks", "Seq", "Rank"),
        *("In msg nelems", "Out msg nelems", "In split size", "Out split size", "Global rank start"),
        *("Global rank stride", "Src Rank", "Dst Rank", "Bytes", "Total Allocated", "Total Reserved", "Addr"),
        *("Device Type", "Device Id", "sort_index", "wait_on_stream", "wait_on_cuda_event_record_corr_id", "ns"),
    )
)  # fmt: skip
_NAMES: Final = frozenset(("dtype", "Collective name", "Input type", "Concrete Inputs", "cuda_sync_kind", "kind"))
_GROUP: Final = "Process Group Name"
_TOP_NUMBERS: Final = frozenset(
    (
        *("schemaVersion", "baseTimeNanoseconds", "record_shapes", "with_stack", "with_modules", "with_flops"),
        *("profile_memory", "cupti_version", "cuda_runtime_version", "cuda_driver_version"),
        *("hip_runtime_version", "hip_driver_version"),
    )
)  # fmt: skip
_DEVICE_NUMBERS: Final = frozenset(
    (
        *("id", "totalGlobalMem", "computeMajor", "computeMinor", "maxThreadsPerBlock", "warpSize", "numSms"),
        *("maxThreadsPerMultiprocessor", "regsPerBlock", "regsPerMultiprocessor", "sharedMemPerBlock"),
        *("sharedMemPerBlockOptin", "sharedMemPerMultiprocessor"),
    )
)  # fmt: skip
_TOP_NAMES: Final = ("displayTimeUnit",)


def redact_events(names: Pseudonyms) -> Change:
    """``[event, ...]`` with nothing but what may be handed on."""
    return lambda piece: b"[" + b",\n".join(_event(bytes(text), names) for text in _EVENTS.decode(piece)) + b"]"


def redact_value(names: Pseudonyms) -> Choose:
    """A top-level value, or None where it does not stay."""

    def choose(key: str, text: bytes) -> bytes | None:
        if key in _TOP_NUMBERS:
            return text if _NUMERIC.fullmatch(text) else None
        if key in _TOP_NAMES:
            return msgspec.json.encode(_named(text, names))
        if key == "deviceProperties":
            return _device_properties(text, names)
        return _distributed(text, names) if key == "distributedInfo" else None

    return choose


def _event(text: bytes, names: Pseudonyms) -> bytes:
    if text[:1] != b"{":
        return b"{}"
    fields = _FIELDS.decode(text)
    out: dict[str, Any] = {}
    for key in ("ph", *_PLAIN):
        if key in fields and (_NUMERIC.fullmatch(fields[key]) or _WORD.fullmatch(fields[key])):
            out[key] = fields[key]
    if "cat" in fields:
        out["cat"] = _category(fields["cat"], names)
    if "name" in fields:
        python = out.get("cat") == "python_function" and not _FRAME.fullmatch(_text(fields["name"]))
        out["name"] = names.of("python", _text(fields["name"])) if python else _named(fields["name"], names)
    for key, kind in (("pid", "process"), ("tid", "thread")):
        if key in fields:
            out[key] = fields[key] if _NUMERIC.fullmatch(fields[key]) else names.of(kind, _text(fields[key]))
    if "args" in fields and bytes(fields["args"])[:1] == b"{":
        out["args"] = _arguments(_FIELDS.decode(fields["args"]), out, names)
    return msgspec.json.encode(out)


def _arguments(args: dict[str, msgspec.Raw], event: dict[str, Any], names: Pseudonyms) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, raw in args.items():
        if key in _NUMBERS and _NUMERIC.fullmatch(raw):
            out[key] = raw
        elif key in _NAMES:
            out[key] = _named(raw, names)
        elif key == _GROUP:
            out[key] = _group(msgspec.json.decode(raw), names)
        elif key == "name" and bytes(event.get("ph", b"")) == b'"M"':  # of a process or a thread
            out[key] = names.of("label", _text(raw))
    return out


def _category(raw: msgspec.Raw, names: Pseudonyms) -> str:
    text = _text(raw)
    return text if text in _CATEGORIES else names.of("category", text)


def _text(raw: msgspec.Raw) -> str:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else bytes(raw).decode()


def _named(raw: msgspec.Raw | bytes, names: Pseudonyms) -> Any:
    """Texts by their words, in lists too; numbers as they stand."""
    if _NUMERIC.fullmatch(raw):
        return msgspec.Raw(bytes(raw))
    value = msgspec.json.decode(raw)
    if isinstance(value, list):
        return [_named(inner, names) for inner in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    return names.name(value) if isinstance(value, str) else None


def _group(value: object, names: Pseudonyms) -> object:
    return value if str(value).isdecimal() and len(str(value)) < 7 else names.of("group", str(value))


def _device_properties(text: bytes, names: Pseudonyms) -> bytes | None:
    try:
        listed = msgspec.json.decode(text, type=list[dict[str, msgspec.Raw]])
    except msgspec.ValidationError:
        return None
    return msgspec.json.encode(
        [
            {key: raw for key, raw in one.items() if key in _DEVICE_NUMBERS and _NUMERIC.fullmatch(raw)}
            | ({"name": names.device(_text(one["name"]))} if "name" in one else {})
            for one in listed
        ]
    )


def _distributed(text: bytes, names: Pseudonyms) -> bytes | None:
    try:
        info = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        groups = msgspec.json.decode(info.get("pg_config", b"[]"), type=list[dict[str, Any]])
    except msgspec.ValidationError:
        return None
    out: dict[str, Any] = {key: info[key] for key in ("rank", "world_size") if key in info}
    out = {key: raw for key, raw in out.items() if _NUMERIC.fullmatch(raw)}
    if "backend" in info:
        out["backend"] = names.known("backend", _text(info["backend"]))
    if "pg_config" in info:
        out["pg_config"] = [_group_of(group, names) for group in groups]
    return msgspec.json.encode(out)


def _group_of(group: dict[str, Any], names: Pseudonyms) -> dict[str, Any]:
    ranks = group.get("ranks")
    known = isinstance(ranks, list) and all(isinstance(rank, int) for rank in ranks)
    size = group.get("pg_size")
    return {
        "pg_name": _group(group.get("pg_name", ""), names),
        **({"pg_size": size} if isinstance(size, int) else {}),
        **({"ranks": ranks} if known else {}),
    }
