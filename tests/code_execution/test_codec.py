"""What crosses between the processes: every plain value comes back, and no bytes do harm."""

import contextlib
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.code_execution.sandbox.inside.codec import MalformedError, Token, TooLargeError, decode, encode
from data_pipelines.code_execution.sandbox.inside.standard import OpaqueError

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False) | st.text() | st.binary()
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashable, inner, max_size=4) | st.sets(hashable, max_size=4),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(values)
def test_plain_values_come_back_with_their_types(value):
    back = decode(encode(value))
    assert back == value
    assert repr(type(back)) == repr(type(value))
    assert encode(back) == encode(value) or isinstance(value, (set, frozenset, dict, list, tuple))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_from_anyone_are_a_value_or_malformed(data):
    with contextlib.suppress(MalformedError):
        decode(data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_damaged_bytes_are_a_value_or_malformed(value, data):
    whole = bytearray(encode(value))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


class Sorted(list):
    def __eq__(self, other):
        return True

    __hash__ = None


class Halves(Fraction):
    def __eq__(self, other):
        return True

    __hash__ = None


class Bold(IntEnum):
    YES = 1


class Money(Decimal):
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize(
    ("value", "base"),
    [(Sorted([1]), list), (Halves(1, 2), Fraction), (Money("0.5"), Decimal), (type("D", (deque,), {})([1]), deque), (True, bool)],
)
def test_subclasses_come_as_their_plain_base(value, base):
    back = decode(encode(value))
    assert type(back) is base
    assert back != "anything"


Point = namedtuple("Point", "x y")
STANDARD = [
    Fraction(-3, 7), Decimal("0.10"), Decimal("-Infinity"), Decimal("1E+50"), deque([1, "a"], 5), deque(), bytearray(b"ab"), Counter("aab"),
    OrderedDict(b=1, a=2), date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, 4), datetime(2024, 1, 1, tzinfo=UTC), time(1, 2, 3, 4),
    time(1, tzinfo=timezone(timedelta(hours=-2))), timedelta(-1, 5, 7), timezone(timedelta(minutes=90)), [Fraction(1, 2), {"a": Decimal(1)}],
    defaultdict(list, a=[1]), defaultdict(None, a=1), memoryview(b"ab"), 10**6000, {date(2024, 1, 1): deque([Decimal("1.5")])},
]  # fmt: skip


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: type(value).__name__)
def test_values_of_the_standard_library_come_back_as_they_are(value):
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)
    assert encode(back) == encode(value)


def test_containers_keep_what_they_do():
    assert decode(encode(Counter("aab")))["z"] == 0
    assert decode(encode(defaultdict(int)))["z"] == 0
    assert decode(encode(deque([1, 2], 2))).maxlen == 2
    assert decode(encode(OrderedDict(b=1, a=2))) != OrderedDict(a=2, b=1)
    with pytest.raises(OpaqueError, match="a default_factory of the program"):
        decode(encode(defaultdict(lambda: 7)))["z"]


def test_named_tuples_and_members_of_enumerations_keep_their_names():
    point = decode(encode(Point(1, [2])))
    assert point == (1, [2])
    assert (point.x, point.y, point._fields, point._asdict(), repr(point)) == (1, [2], ("x", "y"), {"x": 1, "y": [2]}, "Point(x=1, y=[2])")
    assert point._replace(x=5) == (5, [2])
    member = decode(encode(Bold.YES))
    assert (member, member.name, member.value, member + 1) == (1, "YES", 1, 2)
    assert encode(member) == encode(1) or decode(encode(member)) == 1


def test_numpy_values_come_back_as_they_are():
    numpy = pytest.importorskip("numpy")
    arrays = [
        numpy.arange(6).reshape(2, 3), numpy.arange(6).reshape(2, 3).T[:, ::-1], numpy.array([1.5, numpy.nan]), numpy.zeros((0, 3)),
        numpy.array(3), numpy.array(["a", "bcd"]), numpy.array([True, False]), numpy.array(["2024-01-01"], dtype="M8[D]"), numpy.array([1j]),
        numpy.array([[1, "a"], [None, 2]], dtype=object), numpy.array([b"x"]), numpy.array([1, 2], dtype=">i2"), numpy.float16([1, 2]),
    ]  # fmt: skip
    for array in arrays:
        back = decode(encode([array]))[0]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        numpy.testing.assert_array_equal(back, array)
        back[...] = back  # not read-only
    scalars = [
        numpy.int8(-3),
        numpy.uint64(2**63),
        numpy.float32(0.1),
        numpy.float64(0.5),
        numpy.bool_(True),
        numpy.str_("é"),
        numpy.str_(""),
    ]
    for scalar in [*scalars, numpy.complex64(1j), numpy.datetime64("2024-01-01"), numpy.timedelta64(3, "s"), numpy.longdouble(0.1)]:
        back = decode(encode(scalar))
        assert (type(back), back) == (type(scalar), scalar)


@pytest.mark.parametrize(
    "value",
    [
        ("array", 1 << 40), ("matrix", 2), ("masked", 2), ("structured", 2), ("view of few bytes", 10**10),
    ],
    ids=lambda value: value[0],
)  # fmt: skip
def test_what_numpy_holds_otherwise_stays_where_it_is(value):
    numpy = pytest.importorskip("numpy")
    name, size = value
    made = {
        "array": lambda: numpy.broadcast_to(numpy.float64(1), (size,)),
        "matrix": lambda: numpy.matrix([[1, 2]]),
        "masked": lambda: numpy.ma.masked_array([1, 2], [0, 1]),
        "structured": lambda: numpy.zeros(2, dtype=[("a", int)]),
        "view of few bytes": lambda: numpy.lib.stride_tricks.as_strided(numpy.zeros(1), (size,), (0,)),
    }[name]()
    with pytest.raises(TooLargeError if size > 2 else TypeError):
        encode(made)


def test_what_would_be_dear_to_compute_with_stays_where_it_is():
    for value in (Decimal("1e999999999"), Decimal("-1e-999999999"), Fraction(1, 10**200_000), Decimal("1" * 200_000)):
        with pytest.raises(TypeError, match="is not a plain value"):
            encode(value)
        assert isinstance(decode(encode(value, lambda value: Token(0, True, type(value).__name__))), Token)


FORGED = [
    ("Decimal", ("1e999999999",)), ("Decimal", ("x",)), ("Decimal", (1.5,)), ("Decimal", ("9" * 300_000,)), ("Fraction", (1, 0)),
    ("Fraction", (1, 1 << 500_000)), ("Fraction", (True, 0)), ("Fraction", ("1", "2")), ("deque", (range(1 << 60), None)), ("deque", ([1], -1)),
    ("bytearray", (1 << 40,)), ("memoryview", (7,)), ("Counter", (range(1 << 60),)), ("Counter", ([1, 2, 3],)), ("Counter", ([[], 1],)),
    ("OrderedDict", ([1],)), ("defaultdict", ([], 5)), ("date", (2024, 13, 1)), ("date", (b"\x07\xe8\x01\xff",)), ("date", (0, 0, 0)),
    ("datetime", (2024, 1, 1, 25, 0, 0, 0, None, 0)), ("datetime", (1,)), ("time", (1, 2, 3, 4, range(1 << 60), 0)),
    ("time", (1, 2, 3, 4, (9**9, 9**9, 0), 0)), ("timedelta", (1 << 80, 0, 0)), ("timezone", (5, 0, 0)), ("Enum", ("a", 1.5)),
    ("namedtuple", ("P", ("__eq__",), (1,))), ("namedtuple", ("P", ("x",), (1, 2))), ("namedtuple", ("P", ("x y",), (1,))),
    ("namedtuple", ("P", ("class",), (1,))), ("namedtuple", ("P\0", ("x",), (1,))), ("ndarray", ("<i8", (1 << 60,), b"")),
    ("ndarray", ("<i8", (-1, -8), b"12345678")), ("ndarray", ("|O8", (1,), b"12345678")), ("ndarray", ("<U0", (1 << 60,), b"")),
    ("ndarray", ("O", (1 << 60,), [])), ("ndarray", ("O", range(1 << 60), [])), ("ndarray", ("<f8", (1.0,), b"12345678")),
    ("ndarray", ("|b1", (1,), b"\2")), ("ndarray", ("<i8,<i8", (1,), b"1" * 16)), ("generic", ("|O8", b"12345678")), ("generic", ("<i8", b"1")),
    ("generic", ("<U999999999", b"")), ("generic", ("<M8[x]", b"12345678")), ("eval", ("1",)), ("__class__", ()), (["a"], ()), ("date", 5),
    ("date", range(1 << 60)), ("Decimal", ("sNaN" + "1" * 10**6,)),
]  # fmt: skip


@pytest.mark.parametrize("parts", FORGED, ids=lambda parts: str(parts[0]))
def test_forged_parts_are_malformed(parts):
    data = bytearray(encode(parts))
    assert data[:1] == b"t"
    data[:1] = b"x"
    with pytest.raises(MalformedError):
        decode(data)


def test_an_endless_iterator_stays_where_it_is_and_loses_no_item():
    import itertools

    held = []
    data = encode(itertools.count(), lambda value: held.append(value) or Token(0, True, type(value).__name__))
    assert isinstance(decode(data), Token)
    assert [next(held[0]) for _ in range(20_000)] == list(range(20_000))
    assert list(decode(encode(iter(range(100))))) == list(range(100))
    with pytest.raises(TooLargeError):
        encode(itertools.count())


def test_numbers_keep_their_bits():
    assert math.copysign(1, decode(encode(-0.0))) == -1
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode(2**100_000)) == 2**100_000
    assert decode(encode(-(2**63) - 1)) == -(2**63) - 1


@pytest.mark.slow
def test_what_is_too_large_is_noticed():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    for value in (deep, "x" * (17 << 20), list(range(3_000_000)), 1 << (200 << 20)):
        with pytest.raises(TooLargeError):
            encode(value)


def test_tokens_know_their_number_and_nothing_else():
    held = [object()]
    data = encode([held[0]], lambda value: Token(0, True, "object"))
    assert decode(data) == [Token(0, True, "object")]
    assert decode(data, lambda token: held[token.number])[0] is held[0]
    with pytest.raises(TypeError, match="a object is not a plain value"):
        encode(object())
