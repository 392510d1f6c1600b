"""HumanEval+ and MBPP+ (arXiv 2305.01210): tests as evalplus's released evaluator judges, for both forms in which the records are found.

Its releases hold inputs and a reference solution; on the hub, the same stands as test code (github.com/evalplus/evalplus: `evalplus/eval`,
`evalplus/data/mbpp.py`, `tools/*/to_original_fmt.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines.code_execution.sandbox.inside.assertions import prepare

_SETS = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array", "find_dissimilar",
    "Diff",
)  # fmt: skip
RULES = {
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), "not_none"), **dict.fromkeys(_SETS, "same_set"),
    "are_equivalent": "anything", "sum_div": "or_zero", "surface_Area": "or_perpendicular", "digit_distance_nums": "or_padded",
}  # fmt: skip
"""Entry points of MBPP+ whose values are not compared with the reference's alone, and how (`_special_oracle.py`)."""
ROOT_RULE = {"find_zero": "root"}
"""The same for HumanEval+: any root of the polynomial is right."""


def test_code(entry: str, task_id: str, base: Sequence[Any], plus: Sequence[Any], tolerance: float) -> str:
    """Assertions over all inputs of a released record, for a `candidate`, with `helpers` as their support.

    Args:
        entry: the function's name.
        task_id: as the record has it, "HumanEval/1" or "Mbpp/2".
        base: the benchmark's own inputs, arguments each, as JSON gives them.
        plus: the inputs that EvalPlus adds, in the same form.
        tolerance: the record's `atol`.
    """
    rule = (RULES if task_id.startswith("Mbpp/") else ROOT_RULE).get(entry, "equal")
    lines = []
    for inputs in (base, plus):
        converted = deserialized(task_id, inputs)
        given = f"_decoded({json.dumps(json.dumps(inputs))})" if converted == list(inputs) else repr(converted)
        lines.append(f"""
_judge = _Judge({rule!r}, {tolerance!r})
for _case in {given}:
    assert _judge(candidate(*_copy.deepcopy(_case)), _case)
""")  # fmt: skip
    return "".join(lines)


def helpers(reference: str, entry: str) -> str:
    """The reference solution, under names of its own, and the comparison, for the tests' support."""
    return f"_own = {{}}\nexec({reference!r}, _own)\n_reference = _own[{entry!r}]\n{_HELPERS}"


_HELPERS = '''
import copy as _copy, json as _json, math as _math

inf, nan = _math.inf, _math.nan

def _decoded(text):
    return _json.loads(text)

def _is_floats(value):
    if isinstance(value, float):
        return True
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return type(value).__name__ == "ndarray" and value.dtype.name in ("float64", "float32")

def _perpendicular(base, height):
    return round(base ** 2 + 2 * base * _math.sqrt((base / 2) ** 2 + height ** 2))

def _padded(one, other):
    width = max(len(str(one)), len(str(other)))
    return sum(abs(int(a) - int(b)) for a, b in zip(str(one).zfill(width), str(other).zfill(width)))

class _Judge:
    """Whether a value is right. Once a float was expected, the tolerance stays for the inputs that follow."""

    def __init__(self, rule, tolerance):
        self.rule, self.tolerance = rule, tolerance

    def __call__(self, value, case):
        if self.rule == "root":
            return abs(sum(c * _math.pow(value, i) for i, c in enumerate(case[0]))) <= self.tolerance
        expected = _reference(*_copy.deepcopy(case))
        if self.rule == "not_none":
            expected = expected is not None
        exact = self.is_exact(value, expected, case)
        if self.tolerance == 0 and _is_floats(expected):
            self.tolerance = 1e-6
        if exact or self.tolerance == 0:
            return bool(exact)
        if type(value) is not type(expected) or (isinstance(expected, (list, tuple)) and len(value) != len(expected)):
            return False
        import numpy

        return bool(numpy.allclose(value, expected, rtol=1e-07, atol=self.tolerance))

    def is_exact(self, value, expected, case):
        if self.rule == "anything":
            return True
        if self.rule == "same_set":
            return set(value) == set(expected)
        if self.rule == "not_none":
            return (value if isinstance(value, bool) else value is not None) == expected
        if value == expected:
            return True
        if self.rule == "or_zero":
            return value == 0
        if self.rule == "or_padded":
            return value == _padded(*case)
        return self.rule == "or_perpendicular" and abs(value - _perpendicular(*case)) <= self.tolerance
'''


_ROOT_TEST = re.compile(r"assert _poly\(\*candidate\(\*inp\), inp\) <= ([\d.e-]+)")


def hub_tests(test: str, shown: Sequence[str] = ()) -> str:
    """Test code of a hub's record, mended where its export is known to be wrong.

    HumanEval/32 unpacks the answer, a float, and fails for every program: the answer must be a root, as near to zero as the tolerance says
    or the reference comes. Three problems of MBPP+ compute whether the answer is right and never assert it: MBPP's assertions stand in.

    Args:
        test: of the record.
        shown: MBPP's assertions.
    """
    mended = _ROOT_TEST.sub(r"assert abs(_poly(*inp, candidate(*inp))) <= max(\1, abs(_poly(*inp, exp)))", test)
    try:
        asserts = bool(prepare(mended)[1])
    except (SyntaxError, ValueError):
        asserts = True  # the reader of the record says what is wrong with it
    return mended if asserts else "\n".join([mended, *shown])


def deserialized(task_id: str, inputs: Sequence[Any]) -> list[Any]:
    """Inputs of MBPP+ with the tuples, sets and numbers that JSON has no form for; those of HumanEval+ as they are.

    >>> deserialized("Mbpp/2", [[[1, 2], [3]]]), deserialized("HumanEval/2", [[1.5]])
    ([[(1, 2), (3,)]], [[1.5]])
    """
    benchmark, _, number = task_id.partition("/")
    convert = _CONVERSIONS.get(int(number)) if benchmark == "Mbpp" and number.isdecimal() else None
    return [convert(case) for case in inputs] if convert else list(inputs)


def _each(case: list[Any]) -> list[Any]:
    return [tuple(value) for value in case]


def _items_of_each(case: list[Any]) -> list[Any]:
    return [[tuple(item) for item in value] for value in case]


def _each_and_its_items(case: list[Any]) -> list[Any]:
    return [tuple(tuple(item) for item in value) for value in case]


def _items_of_first(case: list[Any]) -> list[Any]:
    return [[tuple(item) for item in case[0]], case[1]]


def _first(case: list[Any]) -> list[Any]:
    return [tuple(case[0]), *case[1:]]


def _second(case: list[Any]) -> list[Any]:
    return [case[0], tuple(case[1])]


def _sets_of_first(case: list[Any]) -> list[Any]:
    return [[set(item) if isinstance(item, list) and item else {} for item in case[0]]]


def _lists_in_first(case: list[Any]) -> list[Any]:
    return [tuple(tuple(item) if isinstance(item, list) else item for item in case[0])]


def _values_of_first(case: list[Any]) -> list[Any]:
    return [{key: tuple(value) for key, value in case[0].items()}, *case[1:]]


def _all_the_way(value: Any) -> Any:
    return tuple(map(_all_the_way, value)) if isinstance(value, list) else value


_CONVERSIONS: dict[int, Callable[[Any], Any]] = {
    **dict.fromkeys(
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809), _each
    ),
    **dict.fromkeys((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780), _items_of_each),
    **dict.fromkeys((75, 413, 444, 753), _items_of_first),
    **dict.fromkeys((106, 750), _second),
    **dict.fromkeys((250, 307, 405, 446, 617, 720, 763, 808), _first),
    **dict.fromkeys((259, 401, 445), _each_and_its_items),
    **dict.fromkeys((580, 615, 791), _all_the_way),
    115: _sets_of_first, 124: lambda case: (float(case[0]), complex(case[1])), 252: lambda case: [complex(case[0])], 278: _lists_in_first,
    722: _values_of_first,
}  # fmt: skip
