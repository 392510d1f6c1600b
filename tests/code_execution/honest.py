"""Programs as people write them, each with its tests and the verdict that plain execution and the benchmarks' evaluators give it.

`asserts` is test code, `outputs` are (input, expected output), `calls` (arguments, expected value) for `f`. Of verdicts that end in "*"
only the beginning counts. `packages` must be importable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_pipelines.code_execution.sandbox import Assertions, Calls, Outputs, Tests


@dataclass(frozen=True)
class Honest:
    """A program, its tests and its verdict."""

    name: str
    source: str
    tests: Tests
    verdict: str = "pass"
    packages: tuple[str, ...] = ()


def asserts(name: str, source: str, code: str, verdict: str = "pass", packages: tuple[str, ...] = ()) -> Honest:
    return Honest(name, source, Assertions(code), verdict, packages)


def writes(name: str, source: str, expected: str, given: str = "", verdict: str = "pass", packages: tuple[str, ...] = ()) -> Honest:
    return Honest(name, source, Outputs(((given, expected),)), verdict, packages)


def returns(name: str, source: str, *cases: tuple[tuple[Any, ...], Any], verdict: str = "pass") -> Honest:
    return Honest(name, source, Calls("f", cases), verdict)


AS_SCRIPTS = [
    writes("quit with a status", "print(2)\nquit(3)", "2"),
    writes("exit in a function", "def main():\n  print(7)\n  exit(0)\nmain()\nprint(8)", "7"),
    writes("sys.exit with a text", "import sys\nprint(7)\nsys.exit('done')", "7"),
    writes("raise SystemExit", "print(7)\nraise SystemExit", "7"),
    writes("an integer of 6,001 digits", "print(10 ** 6000)", "1" + "0" * 6000),
    writes("a long integer that is read", "print(len(str(int(input()) + 1)))", "6001", "9" * 6000),
    writes("standard input by its path", "import sys\nwith open('/dev/stdin') as f: print(len(f.readlines()))", "3", "a\nb\nc\n"),
    writes("descriptor 0 by its path", "print(open('/dev/fd/0').readline().strip())", "x", "x\ny\n"),
    writes("input by pathlib", "from pathlib import Path\nprint(Path('/dev/stdin').read_text().upper())", "ABC", "abc"),
    writes("standard output by its path", "open('/dev/stdout', 'w').write('42\\n')", "42"),
    writes("open(0)", "print(sum(map(int, open(0))))", "6", "1\n2\n3\n"),
    writes("os.read", "import os\nprint(os.read(0, 100).decode().split()[1])", "b", "a b\n"),
    writes("fileinput", "import fileinput\nprint(sum(int(l) for l in fileinput.input()))", "5", "2\n3\n"),
    writes("readline at the end", "import sys\nl = sys.stdin.readline()\nwhile l:\n  print(l.strip())\n  l = sys.stdin.readline()", "a\n\nb", "a\n\nb"),
    writes("no input", "try: input()\nexcept EOFError: print('none')", "none"),
    writes("lines that end as on Windows", "n = int(input())\nprint(sum(len(input()) for _ in range(n)))", "4", "2\r\nab\r\ncd\r\n"),
    writes("own file", "import os, sys\nprint(os.path.exists(__file__), len(open(__file__).readlines()), sys.argv == [__file__])", "True 2 True"),
    writes("command line", "import sys\nprint(len(sys.argv), sys.argv[0].endswith('.py'))", "1 True"),
    writes("argparse", "import argparse\nprint(argparse.ArgumentParser().parse_args())", "Namespace()"),
    writes("deep recursion", "import sys\nsys.setrecursionlimit(10**7)\ndef g(n): return n and 1 + g(n - 1)\nprint(g(90000))", "90000"),
    writes(
        "deep recursion through C",
        "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.cache\ndef g(n): return n and 1 + g(n - 1)\nprint(g(30000))",
        "30000",
    ),
    writes(
        "a thread with half a gigabyte of stack",
        "import sys, threading\nsys.setrecursionlimit(1 << 25)\nthreading.stack_size(1 << 29)\ndef g(n): return n and 1 + g(n - 1)\n"
        "def main(): print(g(60000))\nt = threading.Thread(target=main)\nt.start()\nt.join()",
        "60000",
    ),
    writes("a stack of 256 MB", "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 28, 1 << 28))\nprint('ok')", "ok"),
    writes("more output than a megabyte", "print('x' * 1_500_000)", "x" * 1_500_000),
    writes("pickle of a class", "import pickle\nclass P:\n  def __init__(s): s.x = 3\nprint(pickle.loads(pickle.dumps(P())).x)", "3"),
    writes("a dataclass with slots", "from dataclasses import dataclass\n@dataclass(slots=True)\nclass P:\n  x: int\nprint(P(3))", "P(x=3)"),
    writes(
        "threads in a pool", "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as p: print(*p.map(abs, [-1, -2]))",
        "1 2",
    ),
    writes("multiprocessing's own threads", "from multiprocessing.dummy import Pool\nwith Pool(2) as p: print(p.map(abs, [-1, -2]))", "[1, 2]"),
    writes("multiprocessing's locks", "from multiprocessing import RLock, Semaphore\nwith RLock(), Semaphore(2): print(3)", "3"),
    writes(
        "a process", "from multiprocessing import Process\nif __name__ == '__main__':\n  p = Process(target=print)\n  p.start()\n  p.join()", "x",
        verdict="forbidden(fork)",
    ),
    writes("a late thread", "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()", "late"),
    writes("an executor that is never shut down", "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(2)\np.submit(print, 1)", "1"),
    writes("a function that is run at the end", "import atexit\natexit.register(print, 'bye')\nprint('hi')", "hi\nbye"),
    writes("output wrapped anew", "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('é')", "é"),
    writes("errors wrapped anew", "import io, sys\nsys.stderr = io.TextIOWrapper(sys.stderr.buffer)\nprint('x', file=sys.stderr)\nprint(1)", "1"),
    writes("output detached", "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')\nprint('é')", "é"),
    writes("output gathered, written at the end", "import atexit, io, sys\nsys.stdout = b = io.StringIO()\natexit.register(lambda: sys.__stdout__.write(b.getvalue()))\nprint('a')", "a"),
    writes("output gathered, never written", "import io, sys\nsys.stdout = io.StringIO()\nprint('a')", "a", verdict="wrong_answer"),
    writes("a file that is never closed", "out = open(1, 'w')\nout.write('5')", "5"),
    writes("a finalizer", "class A:\n  def __del__(s): print('gone')\na = A()\nprint(1)", "1\ngone"),
    writes("six digits", "print(2 / 3, 100000 / 3)", "0.666667 33333.333333"),
    writes("numbers among words", "print(f'Case #1: {2 ** 0.5}')", "Case #1: 1.41421356"),
    writes("a list of numbers", "print([0.1 + 0.2, 1])", "[0.3, 1]"),
    writes("a whole number as a float", "print(6 / 2)", "3"),
    writes("a float as a whole number", "print(3)", "3.000"),
    writes("a small number", "print(1 / 3e7)", "3.3333e-08"),
    writes("a whole number that is not right", "print(3.0000001)", "3", verdict="wrong_answer"),
    writes("a large whole number that is not right", "print(10**15 + 1)", str(10**15), verdict="wrong_answer"),
    writes("a number that is not right", "print(0.66)", "0.666667", verdict="wrong_answer"),
    writes("another name", "print('007')", "7", verdict="wrong_answer"),
    writes("another word", "print('1e5')", "100000", verdict="wrong_answer"),
    writes("no number", "print('nan')", "0.5", verdict="wrong_answer"),
    writes("infinity", "print('inf')", "1e+300", verdict="wrong_answer"),
    writes("one line too few", "print(1, 2)", "1\n2", verdict="wrong_answer"),
    writes("numpy's output", "import numpy as np\nprint(np.mean([1, 2, 2]))", "1.666667", packages=("numpy",)),
]  # fmt: skip

AS_FUNCTIONS = [
    asserts("Decimal", "from decimal import Decimal as D\ndef f(): return D('1.10') + D('2.20')", "from decimal import Decimal\nassert f() == Decimal('3.30')\nassert str(f()) == '3.30'"),
    asserts("Fraction", "from fractions import Fraction\ndef f(a, b): return Fraction(a, b)", "from fractions import Fraction\nassert f(2, 4) == Fraction(1, 2)\nassert f(1, 2) == 0.5\nassert f(6, 3) == 2"),
    asserts("Fraction as argument", "def f(x): return x.numerator", "from fractions import Fraction\nassert f(Fraction(3, 9)) == 1"),
    asserts("deque", "from collections import deque\ndef f(x):\n  d = deque(x)\n  d.rotate(1)\n  return d", "from collections import deque\nassert f([1, 2, 3]) == deque([3, 1, 2])\nassert f([1, 2])[0] == 2"),
    asserts("deque changed in place", "def f(d): d.popleft()", "from collections import deque\nd = deque([1, 2])\nf(d)\nassert d == deque([2])"),
    asserts("a Counter changed in place", "def f(c, x): c.update(x)", "from collections import Counter\nc = Counter('a')\nd = c\nf(c, 'ab')\nassert d == Counter('aab')\nassert c is d"),
    asserts("deque is no list", "from collections import deque\ndef f(): return deque([1])", "assert f() == [1]", "wrong_answer"),
    asserts("date", "import datetime\ndef f(y): return datetime.date(y, 2, 28) + datetime.timedelta(days=1)", "from datetime import date\nassert f(2024) == date(2024, 2, 29)\nassert f(2023).month == 3"),
    asserts("datetime and timedelta", "def f(a, b): return b - a", "from datetime import datetime, timedelta\nassert f(datetime(2024, 1, 1), datetime(2024, 1, 2, 3)) == timedelta(days=1, hours=3)"),
    asserts("time zones", "from datetime import datetime, timezone, timedelta\ndef f(): return datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))", "from datetime import datetime, timezone\nassert f() == datetime(2024, 1, 1, 10, tzinfo=timezone.utc)"),
    asserts("bytearray changed in place", "def f(b): b.append(99)", "b = bytearray(b'ab')\nf(b)\nassert b == b'abc'"),
    asserts("Counter", "from collections import Counter\ndef f(s): return Counter(s)", "from collections import Counter\nassert f('aab') == Counter('baa')\nassert f('aab').most_common(1) == [('a', 2)]\nassert f('a')['z'] == 0"),
    asserts("defaultdict", "from collections import defaultdict\ndef f():\n  d = defaultdict(list)\n  d['a'].append(1)\n  return d", "assert f() == {'a': [1]}\nassert f()['b'] == []"),
    asserts("OrderedDict", "from collections import OrderedDict\ndef f(): return OrderedDict([('b', 1), ('a', 2)])", "from collections import OrderedDict\nassert f() == OrderedDict([('b', 1), ('a', 2)])\nassert f() != OrderedDict([('a', 2), ('b', 1)])\nassert f() == {'a': 2, 'b': 1}"),
    asserts("named tuple", "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "assert f() == (1, 2)\nassert f().x == 1\nassert f()._asdict() == {'x': 1, 'y': 2}"),
    asserts("typed named tuple", "from typing import NamedTuple\nclass P(NamedTuple):\n  x: int\n  y: int = 5\ndef f(): return [P(1)]", "assert f()[0].y == 5\nassert f() == [(1, 5)]"),
    asserts("IntEnum", "from enum import IntEnum\nclass C(IntEnum):\n  RED = 2\ndef f(): return C.RED", "assert f() == 2\nassert f().name == 'RED'\nassert f().value == 2\nassert f() + 1 == 3"),
    asserts("range", "def f(n): return range(n)", "assert f(3) == range(3)\nassert f(3)[1] == 1"),
    asserts("complex", "def f(): return (1 + 2j) ** 2", "assert f() == -3 + 4j"),
    asserts("a constant of the program", "LIMIT = [3]\ndef f(): LIMIT.append(4)", "assert LIMIT == [3]\nf()\nassert LIMIT == [3, 4]"),
    asserts("an exception of the program", "class Bad(Exception): pass\nclass Worse(Bad): pass\ndef f(x):\n  if x: raise Worse('no')\n  raise Bad", "try:\n  f(1)\n  assert False\nexcept Bad as e:\n  assert str(e) == 'no'\ntry:\n  f(0)\n  assert False\nexcept Worse:\n  assert False\nexcept Bad:\n  pass"),
    asserts("an endless generator", "def f():\n  n = 0\n  while True:\n    yield n\n    n += 2", "g = f()\nassert [next(g) for _ in range(3)] == [0, 2, 4]\nassert next(g) == 6\nfrom itertools import islice\nassert list(islice(f(), 12000))[-1] == 23998"),
    asserts("a long integer", "def f(n): return 7 ** n", "assert f(9000) == 7 ** 9000\nassert len(str(f(9000))) == 7606\nassert str(f(6000)).isdigit()"),
    asserts("a long integer in the tests", "def f(x): return x + 1", "assert f(" + "9" * 5000 + ") == 1" + "0" * 5000),
    asserts("quit at the end", "def f(): return 1\nif __name__ == '__main__':\n  print(f())\n  quit()", "assert f() == 1"),
    asserts("own file", "import os\nHERE = os.path.dirname(os.path.abspath(__file__))\ndef f(): return os.path.isdir(HERE)", "assert f()"),
    asserts("numpy's numbers", "import numpy as np\ndef f(x): return np.sum(x), np.mean(x), np.float32(0.5)", "assert f([1, 2, 3]) == (6, 2.0, 0.5)\nassert isinstance(f([1])[1], float)", packages=("numpy",)),
    asserts("numpy's truths", "import numpy as np\ndef f(x): return np.all(np.array(x) > 0)", "assert f([1, 2])\nassert f([1, 2]) == True\nassert not f([0])", packages=("numpy",)),
    asserts("numpy's arrays", "import numpy as np\ndef f(x): return np.linalg.inv(np.array(x, float))", "import numpy as np\nassert np.allclose(f([[2, 0], [0, 4]]), [[.5, 0], [0, .25]])\nassert f([[1, 0], [0, 1]]).shape == (2, 2)\nassert (f([[1, 0], [0, 1]]) == np.eye(2)).all()\nnp.testing.assert_allclose(f([[2, 0], [0, 2]]), np.eye(2) / 2)", packages=("numpy",)),
    asserts("numpy's arrays as arguments", "def f(a):\n  a[0] = 7\n  return a.sum()", "import numpy as np\na = np.array([1, 2])\nassert f(a) == 9\nassert a.tolist() == [7, 2]", packages=("numpy",)),
    asserts("numpy's wrong answer", "import numpy as np\ndef f(x): return np.array(x) * 2", "import numpy as np\nassert np.array_equal(f([1, 2]), [1, 2])", "wrong_answer", ("numpy",)),
    asserts("a KeyError's text and arguments", "def f(x): return {}[x]", "try:\n  f('k')\n  assert False\nexcept KeyError as e:\n  assert str(e) == \"'k'\"\n  assert e.args == ('k',)\ntry:\n  f(5)\n  assert False\nexcept KeyError as e:\n  assert str(e) == '5'"),
    asserts("an exit's status", "import sys\ndef f(): sys.exit(3)", "try:\n  f()\n  assert False\nexcept SystemExit as e:\n  assert e.code == 3"),
    asserts("an exception's own text", "class E(Exception):\n  def __str__(s): return f'no {s.args[1]}'\ndef f(): raise E(1, 2)", "try:\n  f()\n  assert False\nexcept E as e:\n  assert str(e) == 'no 2'\n  assert e.args == (1, 2)"),
    asserts("bytes that are no text", "def f(b): return b.decode()", "try:\n  f(b'\\xff')\n  assert False\nexcept UnicodeDecodeError as e:\n  assert 'invalid start byte' in str(e)"),
    asserts("exceptions of the library", "import json, re\nfrom decimal import Decimal\ndef f(x): return json.loads(x)\ndef g(x): return Decimal(x)\ndef h(x): return re.compile(x)", "import decimal, json, re\ntry:\n  f('{')\n  assert False\nexcept json.JSONDecodeError as e:\n  assert 'Expecting' in str(e)\ntry:\n  g('x')\n  assert False\nexcept decimal.InvalidOperation:\n  pass\ntry:\n  h('(')\n  assert False\nexcept re.error:\n  pass"),
    asserts("numpy's exception", "import numpy as np\ndef f(): return np.linalg.inv(np.zeros((2, 2)))", "import numpy as np\ntry:\n  f()\n  assert False\nexcept np.linalg.LinAlgError:\n  pass", packages=("numpy",)),
    asserts("another exception", "import json\ndef f(x): return {}[x]", "import json\ntry:\n  f('{')\n  assert False\nexcept json.JSONDecodeError:\n  pass", "exception(KeyError)"),
    asserts("a test that is not skipped", "import unittest\ndef f(x): raise unittest.SkipTest('x')", "import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(f(1), 1)\nassert unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T)).wasSuccessful()", "wrong_answer"),
    asserts("unit tests", "def f(x): return x", "import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(f(1), 1)\nassert unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T)).wasSuccessful()"),
    asserts("the argument itself", "def f(x, y):\n  y.append(x)\n  return y", "a = []\nb = f(1, a)\nassert b is a\na.append(2)\nassert b == [1, 2]"),
    asserts("no copy of the argument", "def f(x): return x", "a = [1]\nassert f(a) == [1]\nassert f(a) is not a", "wrong_answer"),
    asserts("a copy of the argument", "def f(x): return x[:]", "a = [1]\nassert f(a) is not a\nassert f(a) == a"),
    returns("floats within lists", "def f(x): return {'a': (x / 3, [x])}", ((1,), {"a": [0.333333, [1]]})),
    returns("a float where a whole number is expected", "def f(x): return x + 1e-9", ((1,), 1), verdict="wrong_answer"),
    returns("another text", "def f(x): return '0.3333333'", ((1,), "0.333333"), verdict="wrong_answer"),
    returns("no number", "def f(x): return float('nan')", ((1,), float("nan"))),
    returns("a truth is no number", "def f(x): return True", ((1,), 0.9999999), verdict="wrong_answer"),
]  # fmt: skip

BEYOND_THE_TESTER = [
    asserts("an object compared", "class P:\n  def __eq__(s, o): return True\ndef f(): return P()", "assert f() == 4", "harness_error(a value of type 'P' cannot leave the program)"),
    asserts("an object's attribute", "class P: x = 1\ndef f(): return P()", "assert f().x == 1", "harness_error(a value of type 'P' *"),
    asserts("an object among others", "class P: pass\ndef f(): return [1, P()]", "assert f() == [1, 2]", "harness_error(a value of type 'P' *"),
    asserts("an object's class", "class P: pass\ndef f(): return P()", "assert isinstance(f(), P)", "harness_error(*"),
    asserts("an object's type's name", "class P: pass\ndef f(): return P()", "assert type(f()).__name__ == 'P'", "harness_error(a value of type 'P' *"),
    asserts("an object's truth", "import re\ndef f(s): return re.match('a', s)", "assert f('ab')\nassert not f('ba')\nassert f('b') is None"),
    asserts("a wrong truth", "import re\ndef f(s): return re.search('a', s)", "assert not f('ba')", "harness_error(a value of type 'Match' *"),
    asserts("an object handed back", "class P:\n  def __init__(s, x): s.x = x\ndef f(p): return p.x", "assert f(P(3)) == 3\np = P(4)\nassert f(p) == 4"),
    asserts("a wrong answer about an object", "class P:\n  def __init__(s, x): s.x = x\ndef f(p): return p.x", "p = P(4)\nassert f(p) == 5", "wrong_answer"),
    asserts("an attribute of an exception", "class E(Exception):\n  def __init__(s, x): s.x = x\ndef f(): raise E(1)", "try:\n  f()\n  assert False\nexcept E as e:\n  assert e.x == 1", "harness_error(the attribute 'x' of an exception *"),
    asserts("a returned function", "def f(n): return lambda x: x + n", "assert f(2)(3) == 5", "harness_error(a value of type 'function' *"),
    asserts("an attribute of a function", "from functools import cache\n@cache\ndef f(n): return n", "assert f(3) == 3\nassert f.cache_info().hits == 0", "harness_error('f' of the program can only be called)"),
    asserts("a function as argument", "def f(x, key): return sorted(x, key=key)", "assert f([1, 2], key=lambda x: -x) == [2, 1]", "harness_error(a function of the tests cannot be handed to the program)"),
    asserts("an Enum's member", "from enum import Enum\nclass C(Enum):\n  R = 1\ndef f(): return C.R", "assert f().value == 1", "harness_error(a value of type 'C' *"),
    asserts("a patched function", "def f(): return input()", "from unittest.mock import patch\nwith patch('builtins.input', return_value='5'):\n  assert f() == '5'", "harness_error(the tests change what the program would see: patch)"),
    asserts("a replaced stream", "def f(): print('a')", "import io, sys\nsys.stdout = buffer = io.StringIO()\nf()\nassert buffer.getvalue() == 'a\\n'", "harness_error(the tests change what the program would see: sys.stdout)"),
    asserts("output that is caught", "def f(): print('a')", "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): f()\nassert b.getvalue() == 'a\\n'", "harness_error(*redirect_stdout)"),
    asserts("recursion that the tests allow", "def f(n): return n and 1 + f(n - 1)", "import sys\nsys.setrecursionlimit(10**5)\nassert f(2000) == 2000", "harness_error(*setrecursionlimit)"),
    asserts("a wrong answer where they do", "def f(n): return n", "import sys\nsys.setrecursionlimit(10**5)\nassert f(20) == 21", "wrong_answer"),
    asserts("a seed", "import random\ndef f(): return random.random()", "import random\nrandom.seed(1)\nx = random.random()\nrandom.seed(1)\nassert f() == x", "harness_error(*seed)"),
    asserts("a package that the tester lacks", "def f(x): return x", "import numpy as np\nassert np.array_equal(f([1]), [1])", "harness_error(import_error: numpy)"),
    asserts("wrong before beyond", "class P: pass\ndef f(x): return 0 if x == 1 else P()", "assert f(1) == 1\nassert f(2) == 2", "wrong_answer"),
    asserts("beyond before wrong", "class P: pass\ndef f(x): return 0 if x == 1 else P()", "assert f(2) == 2\nassert f(1) == 1", "harness_error(a value of type 'P' *"),
    asserts("a default of the program", "from collections import defaultdict\ndef f(): return defaultdict(lambda: 7)", "assert f()['x'] == 7", "harness_error(a default_factory *"),
    returns("an object where a value is expected", "class P: pass\ndef f(x): return P()", ((1,), 1), verdict="harness_error(a value of type 'P' *"),
    returns("an object where a list is expected", "class P: pass\ndef f(x): return P()", ((1,), [1]), verdict="harness_error(a value of type 'P' *"),
]  # fmt: skip

HONEST = [*AS_SCRIPTS, *AS_FUNCTIONS, *BEYOND_THE_TESTER]
