"""What is a file that is no Kineto trace, and what makes a trace of it? By its first bytes or its JSON's keys."""

from collections.abc import Iterable
from typing import Final

from loraprof.errors import InputError

HEAD_BYTES: Final = 512
_TORCH: Final = "record with torch.profiler and export_chrome_trace, or run `loraprof profile`"
_HEADS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "`git lfs pull` fetches the file"),
    (b"oid sha256:", "a Git LFS pointer, not the file itself", "`git lfs pull` fetches the file"),
    (b"PK\x03\x04", "a zip archive", "unzip it and pass the trace inside"),
    (b"SQLite format 3\x00", "a SQLite database, as Nsight Systems exports", f"loraprof reads Kineto's JSON: {_TORCH}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "`zstd -d` it first"),
    (b"\xfd7zXZ\x00", "compressed with xz", "`xz -d` it first"),
    (b"BZh", "compressed with bzip2", "`bzip2 -d` it first"),
)
_NSYS: Final = (".nsys-rep", ".qdrep", ".ncu-rep")
_CHAKRA: Final = "a Chakra execution trace: it holds what ran, not when the device did"
_CHAKRA_HINT: Final = f"pass the Kineto trace of the same run; {_TORCH}"


def foreign(name: str, head: bytes) -> InputError | None:
    """What to tell the user of a file that starts with ``head`` and is no JSON; None where that says nothing."""
    place = name.lower().split("?")[0]
    if place.endswith(_NSYS):
        return InputError(
            f"{name}: a report of an Nsight tool, not a PyTorch trace", f"loraprof reads Kineto's: {_TORCH}"
        )
    if place.endswith(".et") or b"chakra" in head.lower():
        return InputError(f"{name}: {_CHAKRA}", _CHAKRA_HINT)
    if head[257:262] == b"ustar":
        return InputError(f"{name}: a tar archive", "unpack it and pass the trace inside")
    for magic, what, hint in _HEADS:
        if head.startswith(magic):
            return InputError(f"{name}: {what}", hint)
    return None


def without_events(name: str, keys: Iterable[str], schema: object) -> InputError | None:
    """The same for a JSON object without events."""
    if "nodes" in keys and ("chakra" in str(schema).lower() or {"pid", "time", "start_ts"} & {*keys}):
        return InputError(f"{name}: {_CHAKRA}", _CHAKRA_HINT)
    return None
