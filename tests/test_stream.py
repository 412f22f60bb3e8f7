"""Cutting a trace file into pieces loses no event and refuses damage in one line."""

import gzip
import io
import json
from decimal import Decimal

import numpy as np
import pytest

from loraprof.errors import InputError
from loraprof.store import stream
from loraprof.store.times import to_ns


def events_of(data: bytes) -> list[dict[str, object]]:
    pieces = stream.Pieces(stream.read_chunks(io.BytesIO(data), "t.json"), "t.json")
    return [event for piece in pieces for event in json.loads(piece)]


@pytest.fixture
def document() -> dict[str, object]:
    odd = 'a"},{"ph":"X" ]}\\'
    return {
        "schemaVersion": 1,
        "traceEvents": [{"ph": "X", "name": odd, "ts": i, "args": {"l": [i]}} for i in range(500)],
        "traceName": "x",
    }


@pytest.mark.parametrize("indent", [None, 1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_every_event_survives(
    document: dict[str, object], indent: int | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PIECE", 4096)
    for value in (document, document["traceEvents"]):
        data = json.dumps(value, indent=indent).encode()
        assert events_of(gzip.compress(data) if packed else data) == document["traceEvents"]


def test_damage_is_one_line(document: dict[str, object]) -> None:
    data = json.dumps(document).encode()
    for broken in (b"", data[:-400], gzip.compress(data)[:-20]):
        with pytest.raises(InputError, match=r"t\.json: "):
            events_of(broken)


def test_nanoseconds_are_exact() -> None:
    ns = np.random.default_rng(0).integers(0, 8 * 10**15, 20000)
    text = [f"{n // 1000}.{n % 1000:03d}" for n in ns.tolist()] + ["4483781115872.905"]
    want = [int(Decimal(t) * 1000) for t in text]
    assert to_ns(np.array([float(t) for t in text])).tolist() == want
