"""HumanEval+ and MBPP+, as released and as they stand on the hub, made here from the original problems: reference solutions pass."""

import ast
import copy
import json
import math

import pytest

from align.errors import AlignError
from data_pipelines.code_execution.evalplus import RULES, deserialized
from data_pipelines.code_execution.formats import FORMATS, recognised
from data_pipelines.code_execution.problems import packages_of, read_problems
from data_pipelines.code_execution.sandbox import Sandbox

pytestmark = pytest.mark.xdist_group("sandbox")
CROSSCHECKED = (
    "tri", "string_sequence", "starts_one_ends", "make_a_pile", "special_factorial", "all_prefixes", "combinations_colors", "freq_count",
    "get_coordinates",
)  # fmt: skip
OWN_INPUTS = {"find_zero": [[[1, 2]], [[-6, 11, -6, 1]]], "decode_cyclic": [["abcdef"]], "decode_shift": [["abcxyz"]]}
COMPARE = """
def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    {same}
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
"""
PLAIN = "import numpy as np\n" + COMPARE.format(same="exact_match = out == exp")
SETS = COMPARE.format(same="out, exp = set(out), set(exp); exact_match = out == exp")
NOT_NONE = """
def assertion(out, exp, atol):
    if isinstance(out, bool):
        exact_match = out == exp
    else:
        exact_match = exp == (out is not None)
"""
POLY = "import math\n\ndef _poly(xs: list, x: float):\n    return sum([c * math.pow(x, i) for i, c in enumerate(xs)])\n"


@pytest.fixture(scope="module")
def with_numpy():
    with Sandbox(packages=["numpy"]) as box:
        yield box


def inputs_of(tests, entry):
    """The arguments with which test code calls a function, each once."""
    found = []
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry and not node.keywords:
            try:
                given = [eval(ast.unparse(argument), {"math": math}) for argument in node.args]
            except NameError:
                continue
            if given not in found:
                found.append(given)
    return found


def results_of(program, entry, inputs):
    namespace = {}
    exec(program, namespace)
    return [namespace[entry](*copy.deepcopy(given)) for given in inputs]


def humaneval_on_the_hub(record):
    """A record as the hub's HumanEval+ has it."""
    entry, program = record["entry_point"], record["prompt"] + record["canonical_solution"]
    inputs = OWN_INPUTS.get(entry) or inputs_of(record["test"], "candidate")
    if entry in CROSSCHECKED:
        reference = "\n".join(line for line in record["prompt"].split("\n") if line)
        reference = reference[: reference.index('"""')].rstrip() + "\n" + record["canonical_solution"]
        test = f"{PLAIN}\n{reference.replace(f' {entry}(', ' ref_func(')}\n\ndef check(candidate):\n    inputs = {inputs}\n"
        test += "    for i, inp in enumerate(inputs):\n        assertion(candidate(*inp), ref_func(*inp), 0)\n"
    else:
        results = results_of(program, entry, inputs)
        helper, line = PLAIN, "assertion(candidate(*inp), exp, 0)"
        if entry == "find_zero":
            helper, line = POLY, "assert _poly(*candidate(*inp), inp) <= 0.0001"
        test = f"{helper}\ndef check(candidate):\n    inputs = {inputs}\n    results = {results}\n"
        test += f"    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        {line}\n"
    return {key: record[key] for key in ("task_id", "prompt", "canonical_solution", "entry_point")} | {"test": test}


def mbpp_on_the_hub(record, entry):
    """A record as the hub's MBPP+ has it; None where its results have no form as text."""
    inputs = inputs_of("\n".join(record["test_list"]), entry)
    rule = RULES.get(entry)
    head = "import numpy as np\nfrom math import inf\n\n"
    if entry in CROSSCHECKED:
        reference = record["code"].replace(f" {entry}(", " ref_func(")
        test = f"{head}{PLAIN}\n{reference}\n\ninputs = {inputs}\nfor i, inp in enumerate(inputs):\n    assertion({entry}(*inp), ref_func(*inp), 0)\n"
    else:
        results = results_of(record["code"], entry, inputs)
        results = [result is not None for result in results] if rule == "not_none" else results
        try:
            assert ast.literal_eval(repr(results)) == results
        except (ValueError, SyntaxError, AssertionError):
            return None
        helper = {"same_set": SETS, "not_none": NOT_NONE}.get(rule, PLAIN)
        test = f"{head}{helper}\ninputs = {inputs}\nresults = {results}\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n"
        test += f"    assertion({entry}(*inp), exp, 0)\n"
    kept = {key: record[key] for key in ("task_id", "code", "prompt", "source_file", "test_imports", "test_list") if key in record}
    return {**kept, "test": test}


def released(record, entry, inputs, benchmark):
    """A record as evalplus releases it."""
    solution = record.get("canonical_solution") or "\n" + record["code"].replace("\t", "    ")
    prompt = record["prompt"] if "canonical_solution" in record else f'"""\n{record["prompt"]}\n{record["test_list"][0]}\n"""\n'
    plain = [[str(value) if isinstance(value, complex) else value for value in given] for given in inputs]
    return {
        "task_id": f"{benchmark}/{str(record['task_id']).rpartition('/')[2]}", "prompt": prompt, "canonical_solution": solution, "entry_point": entry,
        "base_input": json.loads(json.dumps(plain, default=list)), "plus_input": json.loads(json.dumps(plain[:1], default=list)),
        "atol": 1e-4 if entry == "find_zero" else 0,
    }  # fmt: skip


def verdicts(box, problems, programs):
    results = box.run_batch((program, problem.tests) for problem, program in zip(problems, programs, strict=True))
    return {problem.id: str(result.verdict) for problem, result in zip(problems, results, strict=True)}


def failed(found):
    return {id: verdict for id, verdict in found.items() if verdict != "pass"}


@pytest.mark.slow
def test_references_pass_humaneval_plus(shared_data, with_numpy):
    records = [problem.record for problem in read_problems(str(shared_data / "humaneval/HumanEval.jsonl.gz"))]
    hub = [FORMATS["humaneval"](humaneval_on_the_hub(record)) for record in records]
    assert len(hub) == 164
    assert packages_of(hub) == ["numpy"]
    assert failed(verdicts(with_numpy, hub, [problem.solution for problem in hub])) == {}
    given = [OWN_INPUTS.get(record["entry_point"]) or inputs_of(record["test"], "candidate") for record in records]
    plus = [
        FORMATS["evalplus"](released(record, record["entry_point"], one, "HumanEval")) for record, one in zip(records, given, strict=True)
    ]
    assert failed(verdicts(with_numpy, plus, [problem.solution for problem in plus])) == {}
    wrong = verdicts(with_numpy, plus, [f"def {problem.entry_point}(*args): return 'never'" for problem in plus])
    assert "pass" not in wrong.values()
    assert not [id for id, verdict in wrong.items() if verdict.startswith("harness_error")]


@pytest.mark.slow
def test_references_pass_mbpp_plus(shared_data, with_numpy):
    problems = read_problems(str(shared_data / "mbpp/sanitized-mbpp.json"))
    records = [mbpp_on_the_hub(problem.record, problem.entry_point) for problem in problems]
    hub = [FORMATS["mbpp"](record) for record in records if record is not None]
    assert len(hub) > 400
    assert packages_of(hub) == ["numpy"]
    assert failed(verdicts(with_numpy, hub, [problem.solution for problem in hub])) == {}
    wrong = verdicts(with_numpy, hub, [f"def {problem.entry_point}(*args): return 'never'" for problem in hub])
    assert {id for id, verdict in wrong.items() if verdict == "pass"} <= {"Mbpp/164"}


@pytest.mark.slow
def test_inputs_of_mbpp_plus_get_their_tuples_back(shared_data, with_numpy):
    problems = read_problems(str(shared_data / "mbpp/sanitized-mbpp.json"))
    plus = []
    for problem in problems:
        inputs = inputs_of("\n".join(problem.record["test_list"]), problem.entry_point)
        try:
            record = released(problem.record, problem.entry_point, inputs, "Mbpp")
        except TypeError:
            continue
        if deserialized(record["task_id"], record["base_input"]) == inputs:
            plus.append(FORMATS["evalplus"](record))
    assert len(plus) > 350
    assert failed(verdicts(with_numpy, plus, [problem.solution for problem in plus])) == {}


SQUARE = {"task_id": "Mbpp/9999", "prompt": '"""\nx\n"""\n', "plus_input": [], "atol": 0}
ORACLES = [
    ("similar_elements", "def similar_elements(a): return tuple(a)", [[[3, 1, 2]]], "def similar_elements(a): return [1, 2, 3, 3]", True),
    ("similar_elements", "def similar_elements(a): return tuple(a)", [[[3, 1, 2]]], "def similar_elements(a): return [1, 2]", False),
    ("check_str", "import re\ndef check_str(s): return re.search('^a', s)", [["ab"], ["b"]], "def check_str(s): return s[0] == 'a'", True),
    (
        "check_str",
        "import re\ndef check_str(s): return re.search('^a', s)",
        [["ab"], ["b"]],
        "import re\ndef check_str(s): return re.match('a', s)",
        True,
    ),
    ("check_str", "import re\ndef check_str(s): return re.search('^a', s)", [["ab"], ["b"]], "def check_str(s): return True", False),
    ("are_equivalent", "def are_equivalent(a, b): return a == b", [[1, 2]], "def are_equivalent(a, b): return True", True),
    ("sum_div", "def sum_div(n): return 5", [[7]], "def sum_div(n): return 0", True),
    ("sum_div", "def sum_div(n): return 5", [[7]], "def sum_div(n): return 1", False),
    ("surface_Area", "def surface_Area(b, s): return 2 * b * s + b * b", [[3, 4]], "def surface_Area(b, h): return 35", True),
    ("surface_Area", "def surface_Area(b, s): return 2 * b * s + b * b", [[3, 4]], "def surface_Area(b, h): return 34", False),
    ("digit_distance_nums", "def digit_distance_nums(a, b): return 1", [[1, 23]], "def digit_distance_nums(a, b): return 4", True),
    ("half", "def half(x): return x / 2", [[1.0], [3.0]], "def half(x): return x / 2 + 1e-8", True),
    ("half", "def half(x): return x / 2", [[1.0], [3.0]], "def half(x): return x / 2 + 1e-4", False),
    ("half", "def half(x): return x / 2", [[4.0]], "def half(x): return int(x / 2)", True),  # equal numbers need no tolerance
    ("half", "def half(x): return [x / 2, 1.0]", [[4.1]], "def half(x): return (x / 2 + 1e-9, 1.0)", False),  # the type counts
    ("half", "def half(x): return x // 2", [[5]], "def half(x): return x / 2 - 0.5 + 1e-9", False),  # no tolerance among integers
]


@pytest.mark.parametrize(("entry", "reference", "inputs", "program", "right"), ORACLES)
def test_evalplus_rules_decide(entry, reference, inputs, program, right, with_numpy):
    record = {**SQUARE, "entry_point": entry, "canonical_solution": reference, "base_input": inputs}
    assert recognised(record) == "evalplus"
    problem = FORMATS["evalplus"](record)
    result = with_numpy.run(program, problem.tests)
    assert result.passed == right, result.verdict
    assert result.verdict.kind in ("pass", "wrong_answer")


def test_any_root_is_right_in_both_forms(with_numpy):
    record = {
        "task_id": "HumanEval/32", "entry_point": "find_zero", "prompt": "def find_zero(xs: list):\n", "test": "", "canonical_solution": "    return 1.0\n",
    }  # fmt: skip
    hub = FORMATS["humaneval"](
        humaneval_on_the_hub({**record, "prompt": record["prompt"]} | {"canonical_solution": "    return -0.5 if len(xs) == 2 else 1.0\n"})
    )
    plus = FORMATS["evalplus"]({**record, "base_input": OWN_INPUTS["find_zero"], "atol": 1e-4} | {"test": None})
    for problem in (hub, plus):
        assert with_numpy.run("def find_zero(xs): return -0.5 if len(xs) == 2 else 3.0", problem.tests).passed
        assert not with_numpy.run("def find_zero(xs): return -0.5", problem.tests).passed


def test_a_package_that_is_not_installed_is_one_sentence():
    record = {
        "task_id": "HumanEval/1", "entry_point": "f", "prompt": "def f():\n    ''' x '''\n", "canonical_solution": "    return 1\n",
        "test": "import not_there_at_all as n\n'''\nimport neither\n'''\ndef check(candidate):\n    import json\n    assert candidate() == n.one\n",
    }  # fmt: skip
    with pytest.raises(
        AlignError, match="the tests of 'HumanEval/1' import not_there_at_all, which is not installed here: pip install not_there"
    ):
        packages_of([FORMATS["humaneval"](record)])
