"""Pieces of a stream: every item arrives once, whatever the layout; damage is one line with the file's name."""

import gzip
import io
import itertools
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loraprof.errors import InputError
from loraprof.store.kineto import feed
from loraprof.store.kineto.feed import Feed, Inflated, repaired

TRICKY = 'a"},{"ph":"X"}, {' + "]}\\"


def items_of(data: bytes) -> list[Any]:
    """All items of the array that is the whole document."""
    with Inflated(io.BytesIO(data), "t.json") as text:
        source = Feed(text, "t.json")
        items = [item for piece in source.items(msgspec.json.decode) for item in piece]
        assert source.peek() == b""
    return items


def events(count: int) -> list[dict[str, Any]]:
    return [
        {"ph": "X", "name": TRICKY if i % 7 == 0 else "mm", "ts": i, "args": {"dims": [[{"a": 1}, {"b": i}], []]}}
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PIECE_BYTES", 1 << 10)


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("members", [0, 1, 3])
def test_every_item_arrives_once(indent: int | None, members: int) -> None:
    data = json.dumps(events(300), indent=indent).encode()
    if members:
        cuts = [len(data) * i // members for i in range(members + 1)]
        data = b"".join(gzip.compress(data[a:b]) for a, b in itertools.pairwise(cuts))
    assert items_of(data) == events(300)


def test_no_blank_between_items_and_many_blanks() -> None:
    assert items_of(b'[{"a":1},{"a":2}]') == [{"a": 1}, {"a": 2}]
    blank = b" \n\t" * 900
    assert items_of(blank + b"[" + blank + b"{}" + blank + b"," + blank + b"{}" + blank + b"]" + blank) == [{}, {}]
    assert items_of(b"[" + blank + b"]") == []


def test_items_that_are_no_objects() -> None:
    values = [1, "a,{", [2, [3]], {"b": []}, None, "}", {"c": 1}, 7]
    assert items_of(json.dumps(values * 100).encode()) == values * 100


def test_one_item_larger_than_a_piece() -> None:
    value = [{"name": "x" * 50_000, "args": events(100)}, {"ph": "M"}]
    assert items_of(json.dumps(value).encode()) == value


def test_one_item_larger_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PIECE_LIMIT_BYTES", 10_000)
    with pytest.raises(InputError, match=r"t\.json: one value is larger"):
        items_of(json.dumps([{"name": "x" * 50_000}]).encode())


@pytest.mark.parametrize("packed", [False, True])
def test_every_cut_is_noticed(packed: bool) -> None:
    data = json.dumps(events(60)).encode()
    data = gzip.compress(data) if packed else data
    for end in random.Random(0).sample(range(1, len(data)), 150):
        with pytest.raises(InputError, match=r"^t\.json: "):
            items_of(data[:end])


def test_damaged_gzip_is_noticed() -> None:
    data = bytearray(gzip.compress(json.dumps(events(3000)).encode()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InputError, match=r"^t\.json: "):
        items_of(bytes(data))


def test_bomb_is_refused_by_ratio_not_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BOMB_BYTES", 1 << 20)
    plain = json.dumps(events(20_000)).encode()
    assert len(plain) > 1 << 20
    assert len(items_of(gzip.compress(plain))) == 20_000
    with pytest.raises(InputError, match="inflates to more than 200 times its size"):
        items_of(gzip.compress(b"[" + b" " * (8 << 20) + b"]"))


def test_malformed_json_names_the_byte() -> None:
    data = b'[{"a":1},{"a":tru},{"a":3}]'
    with pytest.raises(InputError) as caught:
        items_of(data)
    at = int(caught.value.message.rsplit("(byte ", 1)[1].rstrip(")"))
    assert abs(at - data.index(b"tru")) <= 4


def test_repair_keeps_strings_and_quotes_bare_words() -> None:
    broken = b'[{"name":"a\nNaN\xff","v":NaN,"w":-Infinity,"n":null}]'
    assert json.loads(repaired(broken)) == [{"name": "a NaN\ufffd", "v": "NaN", "w": "-Infinity", "n": None}]
    assert items_of(broken) == json.loads(repaired(broken))


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"[1]")
    with path.open("rb") as stream, Inflated(stream, "t") as text:
        assert text.read(10) == b"[1]"
        assert text.read(10) == b""
