"""What crosses between the processes: every plain value comes back, and no bytes do harm."""

import contextlib
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.code_execution.sandbox.inside.codec import MalformedError, Token, TooLargeError, decode, encode

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False) | st.text() | st.binary()
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashable, inner, max_size=4) | st.sets(hashable, max_size=4),
    max_leaves=20,
)


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


@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_damaged_bytes_are_a_value_or_malformed(value, data):
    whole = bytearray(encode(value))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_subclasses_come_as_their_plain_base():
    point = namedtuple("point", "x y")(1, 2)
    for value, plain in ((point, (1, 2)), (Counter("aa"), {"a": 2}), (OrderedDict(a=1), {"a": 1}), (defaultdict(int, a=1), {"a": 1})):
        back = decode(encode(value))
        assert back == plain
        assert type(back) is type(plain)


def test_numbers_keep_their_bits():
    assert math.copysign(1, decode(encode(-0.0))) == -1
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode(2**100_000)) == 2**100_000
    assert decode(encode(-(2**63) - 1)) == -(2**63) - 1


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
    assert decode(data, held.__getitem__)[0] is held[0]
    with pytest.raises(TypeError, match="a object is not a plain value"):
        encode(object())
