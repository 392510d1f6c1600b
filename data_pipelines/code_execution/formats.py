"""Problem formats by name: a function each, from a benchmark's record to a problem."""

from __future__ import annotations

import ast
import base64
import builtins
import json
import pickle
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from align.errors import AlignError, nearest
from data_pipelines.code_execution.evalplus import helpers, hub_tests, test_code
from data_pipelines.code_execution.problems import Problem
from data_pipelines.code_execution.sandbox.inside.assertions import definitions, parse, read_json
from data_pipelines.code_execution.sandbox.tests import TOLERANCE, Assertions, Calls, Outputs, Tests
from data_pipelines.code_execution.syntax import parses

_COMPLETE = "Complete this Python function. Answer with the whole function in one ```python block.\n\n```python\n{}```"
_WRITE = "{}\n\nAnswer with the program in one ```python block. It must pass tests such as:\n\n```python\n{}\n```"
_READ = "{}\n\nWrite a Python program that reads standard input and writes standard output. Answer with it in one ```python block."


_CONTEST = """
import bisect
import collections
import copy
import functools
import heapq
import itertools
import json
import math
import operator
import random
import re
import string
import sys
from bisect import bisect_left, bisect_right, insort, insort_left, insort_right
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from copy import deepcopy
from functools import cache, cmp_to_key, lru_cache, partial, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, nlargest, nsmallest
from itertools import accumulate, chain, combinations, count, cycle, groupby, islice, pairwise, permutations, product, repeat, zip_longest
from math import ceil, comb, cos, exp, fabs, factorial, floor, gcd, inf, isqrt, lcm, log, log2, log10, pi, sin, sqrt, tan
from operator import itemgetter
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Callable, Deque, Dict, FrozenSet, Generator, Iterable, Iterator, List, Optional, Set, Tuple, Union
""".strip()
"""What the evaluators of APPS and LiveCodeBench import in front of every program; a program gets those whose names it lacks."""


def humaneval(record: Mapping[str, Any]) -> Problem:
    """HumanEval (arXiv 2107.03374), and HumanEval+ as it stands on the hub: `prompt`, `test` with a `check`, `entry_point`."""
    prompt, entry = _text(record, "prompt"), _text(record, "entry_point")
    support = _helpers(prompt, entry)
    tests = Assertions(f"{hub_tests(_text(record, 'test'))}\n\ncheck(candidate)\n", entry, support, candidate=True)
    solution = record.get("canonical_solution")
    whole = None if solution is None else prompt + str(solution)
    return Problem(_id(record, "HumanEval"), _COMPLETE.format(prompt), prompt, tests, entry, support, whole, prompt)


def evalplus(record: Mapping[str, Any]) -> Problem:
    """HumanEval+ and MBPP+ as evalplus releases them: inputs, and a reference solution that says what is right (arXiv 2305.01210)."""
    prompt, entry = _text(record, "prompt"), _text(record, "entry_point")
    reference = prompt + _text(record, "canonical_solution")
    base, plus = (list(record.get(column) or []) for column in ("base_input", "plus_input"))
    if not base and not plus:
        raise AlignError(f"the problem '{record.get('task_id')}' has no inputs")
    code = test_code(entry, str(record.get("task_id")), base, plus, record.get("atol") or 0)
    tests = Assertions(code, entry, helpers(reference, entry), candidate=True)
    return Problem(_id(record, "plus"), _COMPLETE.format(prompt), prompt, tests, entry, _helpers(prompt, entry), reference, prompt)


def mbpp(record: Mapping[str, Any]) -> Problem:
    """MBPP (arXiv 2108.07732), sanitized and full, and MBPP+ as it stands on the hub."""
    description = str(record.get("prompt") or record.get("text") or "")
    shown = [str(test) for test in record.get("test_list") or []]
    if not description or not shown:
        raise AlignError("an MBPP problem needs a description (`prompt` or `text`) and a `test_list`")
    code = record.get("code")
    entry = _called(shown, code, record)
    setup = "\n".join([*(record.get("test_imports") or []), record.get("test_setup_code") or ""]).strip()
    hidden = [hub_tests(str(record["test"]), shown)] if record.get("test") else [*shown, *(record.get("challenge_test_list") or [])]
    tests = Assertions("\n".join(hidden), entry, setup)
    prefix = f'"""\n{description}\n' + "\n".join(shown) + '\n"""\n'
    return Problem(_id(record, "Mbpp"), _WRITE.format(description, "\n".join(shown)), prefix, tests, entry, "", code, description)


def apps(record: Mapping[str, Any]) -> Problem:
    """APPS (arXiv 2105.09938): inputs and outputs of whole programs, or of a function `fn_name`."""
    question = _text(record, "question")
    pairs = _parsed(record.get("input_output"), "input_output")
    inputs, outputs, name = pairs.get("inputs") or [], pairs.get("outputs") or [], pairs.get("fn_name")
    starter = str(record.get("starter_code") or "")
    solutions = _parsed(record.get("solutions"), "solutions") or []
    tests: Tests
    if name:
        entry = f"Solution().{name}" if "class Solution" in starter else str(name)
        cases = tuple((_keyed_first(given), _keyed(wanted)) for given, wanted in zip(inputs, outputs, strict=True))
        tests = Calls(entry, cases, TOLERANCE, rule="apps")
    else:
        tests = Outputs(tuple((_joined(given), _joined(wanted)) for given, wanted in zip(inputs, outputs, strict=True)), TOLERANCE)
    ask = _READ.format(question) if not name else _WRITE.format(question, starter)
    entry_point, solution = str(name) if name else None, next(iter(solutions), None)
    return Problem(_id(record, "APPS", "problem_id", "id"), ask, starter, tests, entry_point, _CONTEST, solution, question)


def livecodebench(record: Mapping[str, Any]) -> Problem:
    """LiveCodeBench (arXiv 2403.07974): public and private cases; functional ones call `Solution().func_name`."""
    question, starter = _text(record, "question_content"), str(record.get("starter_code") or "")
    cases = _parsed(record.get("public_test_cases"), "public_test_cases") + _private(record.get("private_test_cases"))
    metadata = _parsed(record.get("metadata") or "{}", "metadata")
    name = metadata.get("func_name")
    tests: Tests
    if name:
        given = [tuple(read_json(line) for line in case["input"].removesuffix("\n").split("\n") if case["input"]) for case in cases]
        tests = Calls(f"Solution().{name}", tuple(zip(given, (read_json(case["output"]) for case in cases), strict=True)))
    else:
        tests = Outputs(tuple((case["input"], case["output"]) for case in cases))
    ask = _WRITE.format(question, starter) if name else _READ.format(question)
    return Problem(_id(record, "LiveCodeBench", "question_id"), ask, starter, tests, name, _CONTEST, None, question)


def own(record: Mapping[str, Any]) -> Problem:
    """Ours: `prompt`, and `tests`: Python with assertions, `{"calls": [[arguments, result], …]}` or `{"outputs": [[in, out], …]}`,
    these two with a `tolerance` of their own if they like.

    Optional: `id`, `entry_point` (calls need it), `prefix`, `support`, `solution`.
    """
    prompt, tests, entry = _text(record, "prompt"), record.get("tests"), record.get("entry_point")
    made: Tests | None
    if isinstance(tests, str):
        made = Assertions(tests, entry, str(record.get("support") or ""))
    elif isinstance(tests, Mapping) and "calls" in tests:
        made = Calls(str(entry or ""), tuple((tuple(given), wanted) for given, wanted in tests["calls"]), tests.get("tolerance"))
    elif isinstance(tests, Mapping) and "outputs" in tests:
        made = Outputs(tuple((given, wanted) for given, wanted in tests["outputs"]), tests.get("tolerance"))
    elif tests is None:
        made = None
    else:
        raise AlignError("tests: expected Python text, or a record with 'calls' or 'outputs'")
    return Problem(
        _id(record, "problem", "id"), prompt, str(record.get("prefix") or ""), made, entry, str(record.get("support") or ""),
        record.get("solution"), prompt,
    )  # fmt: skip


FORMATS: dict[str, Callable[[Mapping[str, Any]], Problem]] = {
    "humaneval": humaneval, "evalplus": evalplus, "mbpp": mbpp, "apps": apps, "livecodebench": livecodebench, "own": own,
}  # fmt: skip

_COLUMNS = {
    "evalplus": {"base_input", "entry_point", "canonical_solution"}, "humaneval": {"test", "entry_point", "prompt"}, "mbpp": {"test_list"},
    "apps": {"input_output", "question"}, "livecodebench": {"question_content", "public_test_cases"}, "own": {"prompt"},
}  # fmt: skip


def recognised(record: Mapping[str, Any]) -> str:
    """The format of a record, by its columns.

    Raises:
        AlignError: none has these.
    """
    for name, columns in _COLUMNS.items():
        if columns <= record.keys():
            return name
    raise AlignError(f"not a problem of any known format (columns {', '.join(sorted(record))}): expected at least 'prompt' and 'tests'")


def _text(record: Mapping[str, Any], column: str) -> str:
    if not isinstance(record.get(column), str) or not record[column]:
        raise AlignError(f"the problem '{record.get('task_id', '?')}' has no `{column}`: {nearest(column, record)}")
    return str(record[column])


def _id(record: Mapping[str, Any], benchmark: str, *columns: str) -> str:
    """The record's id, with the benchmark's name (evalplus's spelling of it) in front of a bare number."""
    value = next((record[column] for column in (*columns, "task_id") if record.get(column) is not None), None)
    if value is None:
        from data_pipelines.rollouts.prompts import prompt_id

        return f"{benchmark}/{prompt_id(str(record.get('prompt')))}"
    return value if isinstance(value, str) and not value.isdigit() else f"{benchmark}/{value}"


def _helpers(prompt: str, entry: str) -> str:
    """Imports and helper functions of a prompt that ends inside the function to be written, or before it."""
    try:
        whole = prompt if parses(prompt) else f"{prompt}\n    pass\n"
        return definitions(whole, without=[entry])
    except SyntaxError as error:
        raise AlignError(f"the prompt does not parse: {error.msg}, line {error.lineno}") from error


def _called(tests: list[str], code: Any, record: Mapping[str, Any]) -> str:
    """The function that MBPP's tests call: one that the solution defines, else the first that is no built-in."""
    try:
        nodes = [node for test in tests for node in ast.walk(parse(test))]
        calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        defined = {node.name for node in ast.walk(parse(code or "")) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    except SyntaxError as error:
        raise AlignError(f"the tests or the solution do not parse: {error.msg}, line {error.lineno}") from error
    named = next((name for name in calls if name in defined), None) or next((name for name in calls if not hasattr(builtins, name)), None)
    if named is None:
        raise AlignError(f"the problem '{record.get('task_id', '?')}' has no entry point: its tests call no function")
    return named


def _parsed(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value if value is not None else {}
    try:
        return read_json(value) if value.strip() else {}
    except json.JSONDecodeError as error:
        raise AlignError(f"`{column}` is not JSON: {error.msg}") from error


def _private(value: Any) -> list[dict[str, str]]:
    """LiveCodeBench's hidden cases: JSON, or JSON in a pickled string, compressed. Nothing but a string is unpickled."""
    if not value:
        return []
    try:
        return list(json.loads(value))
    except json.JSONDecodeError:
        pass
    try:
        return list(json.loads(_OnlyText(BytesIO(zlib.decompress(base64.b64decode(value)))).load()))
    except Exception as error:
        raise AlignError(f"`private_test_cases` cannot be read: {type(error).__name__}: {error}") from error


class _OnlyText(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a pickle that wants {module}.{name}")


def _joined(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _keyed_first(arguments: list[Any]) -> tuple[Any, ...]:
    return tuple(_keyed(value) if place == 0 else value for place, value in enumerate(arguments))


def _keyed(value: Any) -> Any:
    """A dict with the integers for keys that JSON has made texts of, as APPS's evaluator reads it; so, too, in a list of one."""
    if isinstance(value, list) and len(value) == 1:
        return [_keyed(value[0])]
    if isinstance(value, dict) and value and all(isinstance(key, str) and key.lstrip("-").isdecimal() for key in value):
        return {int(key): item for key, item in value.items()}
    return value
