"""What a fuzzer does to files: edits of bytes, as disks and editors make them, and of structures, as programs and people do."""

import copy
import json

from hypothesis import strategies as st

PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\",
    b",",
    b":",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
]
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)
    | st.sampled_from(["", " ", "\ud800", "\x00", "\ud83d\ude00", "../../x", "nan", "null", "1e400", "{}", "é" * 300, 10**400, -0.0, 1 << 70])
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=6), inner, max_size=3),
    max_leaves=6,
)
_EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "zero"]),
    st.integers(0, 1 << 30),
    st.integers(0, 255),
    st.sampled_from(PIECES),
)
EDITS = st.lists(_EDIT, min_size=1, max_size=4)
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 30), st.sampled_from(["value", "value", "value", "without", "key"]), VALUES), min_size=1, max_size=3
)


def edited(content: bytes, edits: list) -> bytes:
    """Bytes with edits, each at a place of its own."""
    for what, at, byte, piece in edits:
        place = at % (len(content) + 1)
        if what == "flip" and place < len(content):
            content = content[:place] + bytes([content[place] ^ (byte or 1)]) + content[place + 1 :]
        elif what == "cut":
            content = content[:place]
        elif what == "insert":
            content = content[:place] + piece + content[place:]
        elif what == "drop":
            content = content[:place] + content[place + byte :]
        elif what == "repeat":
            content = content[:place] + content[max(0, place - byte) :]
        elif what == "zero":
            content = content[:place] + bytes(byte) + content[place + byte :]
    return content


def changed(content: object, changes: list) -> object:
    """Nested JSON data with some of its values replaced, left out, or put under another key."""
    content = copy.deepcopy(content)
    for number, what, value in changes:
        places = list(_places(content))
        if not places:
            return value
        holder, key = places[number % len(places)]
        if what == "without":
            del holder[key]
        elif what == "key" and isinstance(holder, dict):
            holder[str(value)] = holder.pop(key)
        else:
            holder[key] = value
    return content


def as_json(content: object) -> bytes:
    """Its JSON; of what UTF-8 cannot hold, the escape."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")


def _places(content: object):
    entries = list(content.items()) if isinstance(content, dict) else list(enumerate(content)) if isinstance(content, list) else []
    for key, value in entries:
        yield content, key
        yield from _places(value)
