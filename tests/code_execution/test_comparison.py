"""What counts as the expected output or value: close numbers, exact words."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from data_pipelines.code_execution.sandbox.inside.comparison import same_output, same_value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.3333333333333333", "0.333333"), ("0.333333", "0.3333333333"), ("1", "1.0"), ("1.0", "1"), ("1.00000", "1"), ("2.9999999", "3.0"),
        ("1e-07", "0.0"), ("1.5e+20", "150000000000000000000"), ("1e+20", "100000000000000000000.0"), ("-0.0", "0"), ("+5", "5"), (".5", "0.5"),
        ("a  0.25\n", "a 0.2500001"), ("[0.1, 0.30000000000000004]", "[0.1, 0.3]"), ("(1.0,2.5)", "(1,2.5000001)"), ("x\n\n1\n", "x\n\n1"),
        ("12345678.9", "12345679.0"), ("Case #2: 7", "Case #2: 7"), ("nan inf", "nan inf"), ("1 2 \n 3", "1 2\n3"), ("9" * 5000, "9" * 5000),
        ("0." + "3" * 5000, "0.3333333"),
    ],
)  # fmt: skip
def test_outputs_that_are_the_same(written, expected):
    assert same_output(written, expected, 1e-6)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.3334", "0.333333"), ("1.0000001", "1"), ("1000000000000001", "1000000000000000"), ("007", "7"), ("7", "007"), ("0", "00"),
        ("1e5", "100000"), ("100000", "1e5"), ("1e5", "1e6"), ("100001", "1e5"), ("nan", "0.5"), ("inf", "1e+300"), ("1e+99999", "1.5e+99998"),
        ("1_000.0", "1000.0"), ("0x10", "16.0"), ("1.2.3", "1.2"), ("12:30", "12:30.0"), ("2024-01-02", "2024-01-2.0"), ("1 2", "1\n2"),
        ("1,2", "1, 2"), ("ab 0.5", "abc 0.5"), ("True", "1.0"), ("", "0.0"), ("0.5 0.5", "0.5"), ("١.٥", "1.5"), ("9" * 5000, "9" * 4999 + "8"),
        ("1" + "0" * 400 + ".5", "2" + "0" * 400 + ".5"), ("0.50.", "0.5"), ("-0.5", "0.5"), ("1,5", "1.5"), ("--1.0", "1.0"),
    ],
)  # fmt: skip
def test_outputs_that_differ(written, expected):
    assert not same_output(written, expected, 1e-6)


def test_without_tolerance_numbers_have_their_exact_value():
    assert same_output("1.50", "1.5", 0.0)
    assert not same_output("1.5000001", "1.5", 0.0)
    assert same_value([1, (2,)], [1.0, [2]], 0.0)
    assert not same_value(0.1 + 0.2, 0.3, 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1 + 0.2, 0.3), ([(0.5000001,)], ((0.5,),)), ({"a": 1 / 3}, {"a": 0.333333}), (1, 1.0), (1.0, 1), (True, 1), (3, 2.9999999),
        (Fraction(1, 3), 0.3333333333), (Decimal("0.1"), 0.1), (math.nan, math.nan), (math.inf, math.inf), (1e20, 1e20 + 1e10), ("a", "a"),
        (None, None), ([], ()), (10**400, 10**400), (1e-7, 0.0),
    ],
)  # fmt: skip
def test_values_that_are_the_same(value, expected):
    assert same_value(value, expected, 1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0000001, 1), (10**15 + 1, 10**15), ("0.3333333", "0.333333"), ("1", 1), (1, "1"), ([1], 1), (1, [1]), ({1: 0.5}, {"1": 0.5}),
        (True, 0.9999999), (math.inf, 1e308), (math.nan, 0.5), (0.5, math.nan), (None, 0.0), ({0.5}, [0.5]), ([0.5, 1], [0.5]), ("nan", math.nan),
        (-math.inf, math.inf), (0.3334, 0.333333), (1j, 0.0),
    ],
)  # fmt: skip
def test_values_that_differ(value, expected):
    assert not same_value(value, expected, 1e-6)


def test_numpy_values_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert same_value([numpy.float32(0.1), numpy.int64(3)], [0.1, 3], 1e-6)
    assert not same_value(numpy.float64(3.0000001), 3, 1e-6)
    assert not same_value(numpy.bool_(True), 0.9999999, 1e-6)
