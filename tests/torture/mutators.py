"""Mutators: bytes changed at random, as fuzzers change them, with an eye to what they mean."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["mutate", "mutate_archive", "mutate_json"]

_SIZES = (1, 2, 4, 8)
_NUMBERS = (
    0, 1, 2, 3, 7, 8, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 511, 512, 1023, 4095, 4096,
    32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1,
    2**63, 2**64 - 2, 2**64 - 1,
)  # fmt: skip
_MARKS = re.compile(
    rb"TREE|SNOD|HEAP|GCOL|OHDR|FRHP|BTHD|PK[\1\3\5][\2\4\6]|IHDR|IDAT|PLTE|tRNS|\xff[\xc0-\xfe]|"
    rb"NUMPY|RIFF|VP8|\x89HDF|GIF8|MM\0\*|II\*\0"
)


def _spot(data: bytes, rng: random.Random) -> int:
    """Choose a place: mostly near the mark of a structure, or where bytes are not all alike."""
    if not data:
        return 0
    if rng.random() < 0.5:
        marks = [found.start() for found in _MARKS.finditer(data)]
        if marks:
            return min(len(data) - 1, rng.choice(marks) + rng.randrange(96))
    return rng.randrange(len(data))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_spot(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[_spot(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice(_SIZES)
    at = _spot(data, rng)
    if rng.random() < 0.7:
        at -= at % size
    order = "little" if rng.random() < 0.8 else "big"
    value = rng.choice((*_NUMBERS, len(data), rng.randrange(len(data) + 1)))
    if rng.random() < 0.3:  # a little more or less than it says
        value = int.from_bytes(data[at : at + size], order) + rng.randint(-16, 16)
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def _cut(data: bytearray, rng: random.Random) -> None:
    at = _spot(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 8, 16, 64, 512))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, length = _spot(data, rng), rng.choice((1, 2, 4, 8, 16, 64, 512))
    data[at:at] = data[at : at + length]


def _copy(data: bytearray, rng: random.Random) -> None:
    """Put some bytes over others: one structure in the place of another."""
    length = rng.choice((2, 4, 8, 16, 24, 40, 96))
    source, target = (_spot(data, rng) & ~7 for _ in range(2))
    piece = data[source : source + length]
    data[target : target + len(piece)] = piece


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += rng.choice((bytes(64), b"\xff" * 64, rng.randbytes(64), bytes(5000)))


def _digits(data: bytearray, rng: random.Random) -> None:
    """Write another number where one stands as text."""
    found = list(re.finditer(rb"\d+", data))
    if found:
        one = rng.choice(found)
        data[one.start() : one.end()] = str(rng.choice((*_NUMBERS, -1, 10**400))).encode()


_ALL: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _byte, _number) * 4,
    *(_copy, _cut, _repeat, _digits) * 2,
    _truncate,
    _extend,
)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return `data` with one to six changes; at times with an end of one of the `others`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        if changed:
            rng.choice(_ALL)(changed, rng)
    if others and rng.random() < 0.05:
        other = rng.choice(others)
        changed[rng.randrange(len(changed) + 1) :] = other[rng.randrange(len(other) + 1) :]
    return bytes(changed)


_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), "", "x",
    "../../x", "/etc/hostname", "a\0b", "\ud800", "x" * 5000, [], {}, [[]], {"": {}}, [None],
    "os.system", "builtins", "numpy",
)  # fmt: skip


def _value(rng: random.Random, *known: Any) -> Any:
    """Return some plain value: an odd one, or one of those that are known, not the same object."""
    return json.loads(json.dumps(rng.choice((*_ODD, *known))))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside plain data."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, inner in pairs:
            found.append((item, key))
            if isinstance(inner, dict | list):
                waiting.append(inner)
    return found


def mutate_json(document: Any, rng: random.Random) -> Any:
    """Change, drop, add or swap one to three values of plain data, in place; return it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(document)
        if not places:
            return _value(rng)
        holder, key = rng.choice(places)
        other, at = rng.choice(places)
        how = rng.random()
        if how < 0.55:
            holder[key] = _value(rng, other[at])
        elif how < 0.7:
            del holder[key]
        elif how < 0.85:
            inner = other[at]
            holder[key] = json.loads(json.dumps(inner))
        elif isinstance(holder, dict):
            holder[rng.choice(("", "x", "__class__", "shape", str(key)))] = _value(rng)
        else:
            holder.append(_value(rng, *holder[:1]))
    return document


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Return a skops archive, unsigned, with some of its contents changed.

    Its schema, the text inside the schema, or the headers and bytes of its arrays.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    arrays = [name for name in contents if name.endswith(".npy")]
    how = rng.random()
    if how < 0.45 or not arrays:
        schema = json.loads(contents["schema.json"])
        contents["schema.json"] = json.dumps(mutate_json(schema, rng)).encode()
    elif how < 0.6:
        schema = json.loads(contents["schema.json"])
        node = schema["content"]["featbank"]
        text = json.loads(json.loads(node["content"]))
        node["content"] = json.dumps(json.dumps(mutate_json(text, rng)))
        contents["schema.json"] = json.dumps(schema).encode()
    elif how < 0.9:
        name = rng.choice(arrays)
        contents[name] = mutate(contents[name], rng)
    else:
        first, second = rng.choice(arrays), rng.choice(arrays)
        contents[first], contents[second] = contents[second], contents[first]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()
