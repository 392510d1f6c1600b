"""Programs that are wrong and would rather not be judged: by what cannot be written, or by what ends or confuses the tester.

Each must get a verdict that says what it did. None may get `harness_error`, which would say that it is nobody's fault.
"""

from __future__ import annotations

from honest import Honest, asserts

from data_pipelines.code_execution.sandbox import Assertions, Calls, Outputs

SQUARES = Assertions("assert f(2) == 4\nassert f(3) == 9\n", "f")
MANY = Assertions("\n".join(f"assert f({n}) == {n * n}" for n in range(2, 14)), "f")
CASES = Calls("f", (((2,), 4), ((3,), 9)))
FRACTIONS = Calls("f", (((2,), 4.5),))
WRITES = Outputs((("2\n", "4.5\n"),))

FORGER = """
import os, struct, time
from inside.codec import Token, encode
def raw(data):
    data = struct.pack(">I", len(data)) + data
    while data: data = data[os.write(3, data):]
def say(*parts): raw(encode(parts, max_bytes=1 << 25))
"""


def squares(name: str, source: str, verdict: str) -> Honest:
    return Honest(name, source, SQUARES, verdict)


def cases(name: str, source: str, verdict: str, tests: Calls = CASES) -> Honest:
    return Honest(name, source, tests, verdict)


def writes(name: str, source: str, verdict: str, tests: Outputs = WRITES) -> Honest:
    return Honest(name, source, tests, verdict)


def forges(name: str, statement: str, verdict: str = "forbidden(channel)") -> Honest:
    """A program that says something of its own when it is called; the frame's number is the right one."""
    return squares(name, f"{FORGER}def f(x):\n  {statement}\n  return 0", verdict)


NOT_TO_BE_WRITTEN = [
    squares("half a character as the name of a global", "globals()['\\ud800'] = 1\ndef f(x): return 0", "wrong_answer"),
    squares("half a character as the name of an exception's variable", "globals()['\\ud800'] = type('a', (Exception,), {})\ndef f(x): return 0", "wrong_answer"),
    cases("NUL in the name of an exception's variable", "globals()['a\\0'] = type('a', (Exception,), {})\ndef f(x): return 0", "wrong_answer"),
    squares("half a character in a syntax error", "x = '\ud800' +", "exception(UnicodeEncodeError)"),
    squares("NUL in the program", "def f(x): return 1\0", "syntax_error(*"),
    writes("NUL and no text in the output", "import sys\nsys.stdout.buffer.write(b'\\0\\xff\\xed\\xa0\\x80' * 1000)", "wrong_answer"),
    squares("control characters in a reason", "raise ImportError('\\x1b[2J\\r\\n\\x00\\u202e')", "import_error(*"),
    squares("half a character in a field of a tuple", "class P(tuple): _fields = ('\\ud800',)\ndef f(x): return P((1,))", "wrong_answer"),
    squares("half a character in a member's name", "import enum\nclass E(enum.IntEnum): A = 1\nE.A._name_ = '\\ud800'\ndef f(x): return E.A", "wrong_answer"),
    squares("half a character in a time zone's name", "import datetime as d\ndef f(x): return d.datetime(2000, 1, 1, tzinfo=d.timezone(d.timedelta(hours=1), '\\ud800'))", "wrong_answer"),
    squares("half a character in an error's own text", "class E(Exception):\n  def __str__(s): return '\\udfff' * 9\ndef f(x): raise E", "exception(E)"),
    squares("half a character in every argument", "def f(x): raise UnicodeDecodeError('utf8', b'x', 0, 1, '\\ud800')", "exception(UnicodeDecodeError)"),
    squares("forty million characters of a name", "raise type('E' * 40_000_000, (Exception,), {})", "exception(EEE*"),
    writes("forty million characters of a name, as a script", "raise type('E' * 40_000_000, (Exception,), {})", "exception(EEE*"),
    squares("fifteen million characters of a name in the text", f"def {'f' * 15_000_000}(x): return 4", "exception(NameError)"),
    squares("forty million characters of a global", "globals()['E' * 40_000_000] = 1\ndef f(x): return 0", "output_limit(names)"),
    Honest("fifteen million characters of a name in each test", "def f(x): raise type('E' * 15_000_000, (Exception,), {})", MANY, "exception(EEE*"),
    forges("a forged name with half a character", "say('raised', 1, '\\ud800', 'E\\0', '\\ud800', ('\\udfff',))"),
    forges("a forged reason of fourteen million characters", "say('raised', 1, 'ImportError', 'E', 'x' * 14_000_000, ())"),
    forges("a forged name of fourteen million characters", "say('raised', 1, 'ValueError', 'E' * 14_000_000, 'x', ())"),
    squares("forged names that nothing can be called", f"{FORGER}say('loaded', ['\\ud800', 'f'], [], [], [['\\ud800', 'Exception'], ['a\\0', 'b']])\ntime.sleep(9)", "timeout"),
    cases("forged names, called", f"{FORGER}say('loaded', ['f'], [], [], [['a\\0', 'a\\0'], ['b', 'c'], ['c', 'b']])\nsay('raised', 1, 'X', 'b', '', ())\ntime.sleep(9)", "[te]*"),
    squares("half a character as the forged reason of a failure", f"{FORGER}say('failed', 'SyntaxError', 'E', '\\ud800', ())\ntime.sleep(9)", "syntax_error(*"),
    squares("a failure of fourteen million characters", f"{FORGER}say('failed', 'ImportError', 'E', 'x' * 14_000_000, ())\ntime.sleep(9)", "forbidden(channel)"),
]  # fmt: skip

_ANSWERS = [
    ("no sequence", "2", "r[0] == 4"), ("no sequence to unpack", "2", "[*r] == [4]"), ("no length", "2", "len(r) == 1"), ("no attribute", "2", "r.real_part == 4"),
    ("nothing", "None", "r.a == 4"), ("no key", "{}", "r['a'] == 4"), ("no number", "'4'", "abs(r - 4) < 1e-6"), ("no order", "1j", "r < 4"),
    ("nothing to divide by", "0", "1 / r == 4"), ("too large for a float", "10 ** 400", "float(r) == 4"), ("not to be hashed", "[]", "{r: 1}"),
    ("no sum", "['a']", "sum(r) == 4"), ("no mixed order", "[1, 'a']", "sorted(r)"), ("no text", "b'\\xff'", "r.decode() == '4'"),
    ("a number that signals", "__import__('decimal').Decimal('sNaN')", "r == 4"), ("a number that signals, hashed", "__import__('decimal').Decimal('sNaN')", "r in {4}"),
    ("a module's name", "'no_such_module'", "__import__(r)"), ("code", "'1 +'", "eval(r) == 4"), ("half of JSON", "'{'", "__import__('json').loads(r)"),
]  # fmt: skip

SMUGGLED = [
    *(asserts(f"{name}, used in the next test", f"def f(x): return {value}", f"r = f(2)\nassert True\nassert {test}", "wrong_answer(*") for name, value, test in _ANSWERS),
    asserts("code with a name that is none", "def f(x): return 'no_such_name + 1'", "r = f(2)\nassert True\nassert eval(r) == 4", "exception(NameError)"),
    asserts("no sequence in a check's loop", "def f(x): return 2", "def check(c):\n  r = c(2)\n  assert True\n  for x in r: assert x\ncheck(f)", "wrong_answer(TypeError)"),
    asserts("an exception where tests catch a class that is none", "class Bad: pass\ndef f(x): raise ValueError", "try:\n  f(1)\n  assert False\nexcept Bad:\n  pass", "exception(ValueError)"),
    asserts("answers that fill the tests' memory", "def f(x): return 'a' * 10**7", "kept = []\nfor n in range(10**6): kept.append(f(n))\nassert kept == 4", "memory(in the tests)"),
    asserts("an answer that is multiplied", "def f(x): return 'a' * 10**7", "r = f(2)\nparts = [r * n for n in range(1000)]\nassert parts == 4", "memory(in the tests)"),
    asserts("a length without end", "def f(x): return 10**10", "r = f(2)\nassert [0] * r == 4", "memory(in the tests)"),
    asserts("a range without end", "def f(x): return range(10**12)", "assert list(f(2)) == 4", "memory(in the tests)"),
    asserts("an answer handed back twice", "def f(x): return 'a' * 15_000_000", "assert f((f(2), f(2))) == 4", "output_limit(result)"),
    asserts("an answer handed back in more containers", "def f(x):\n  r = []\n  for _ in range(98): r = [r]\n  return r", "assert f([[[[f(2)]]]]) == 4", "wrong_answer"),
    asserts("a signal without a name", "import os\ndef f(x): os.kill(os.getpid(), 40)", "assert f(2) == 4", "crashed(signal 40)"),
    writes("a signal without a name, as a script", "import os\nos.kill(os.getpid(), 63)", "crashed(signal 63)"),
    cases("a number that signals, as a value", "from decimal import Decimal\ndef f(x): return Decimal('sNaN')", "wrong_answer*", FRACTIONS),
    cases("a number too large for a float", "from fractions import Fraction\ndef f(x): return Fraction(10**400)", "wrong_answer*", FRACTIONS),
    writes("a number that signals, printed", "print('sNaN')", "wrong_answer"),
    writes("a million digits, printed", "print('1.' + '9' * 1_000_000)", "wrong_answer"),
    writes("an exponent without end, printed", "print('1.5e99999', '1.5e-99999')", "wrong_answer"),
    writes("a million words, printed", "print('[1.0,];' * 140_000)", "wrong_answer", Outputs((("", "[1.5,];" * 140_000),))),
    squares("a class that lies about its name", "class M(type):\n  __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E", "exception(E)"),
    squares("a class that lies about its bases", "class M(type):\n  __mro__ = property(lambda s: 5)\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E", "exception(E)"),
    squares("a class that lies about its module", "class B:\n  def __format__(s, f): raise ValueError\nclass E(Exception): __module__ = B()\ndef f(x): raise E", "exception(E)"),
    squares("an error whose text is no text", "class S(str):\n  def __getitem__(s, i): return 7\nclass E(Exception):\n  def __str__(s): return S('x')\ndef f(x): raise E", "exception(E)"),
    squares("an error whose text never ends", "class E(Exception):\n  def __str__(s):\n    while True: pass\ndef f(x): raise E", "timeout"),
    squares("an error with a million arguments", "def f(x): raise ValueError(*range(10**6))", "exception(ValueError)"),
    squares("an exception for every one", "for n in range(30_000): globals()[f'x{n}'] = type('a', (Exception,), {})\ndef f(x): return 0", "wrong_answer"),
    squares("a list that can be a key", "class L(list):\n  def __hash__(s): return 1\n  def __len__(s): raise ValueError\ndef f(x): return [L([1])]", "wrong_answer"),
    forges("a forged key that cannot be one", "raw(b't\\0\\0\\0\\5' + encode('returned') + encode(1) + b'e\\0\\0\\0\\1' + encode([]) + encode(None) * 2)"),
    forges("forged values that are as good as each other", "raw(b't\\0\\0\\0\\5' + encode('returned') + encode(1) + b'e\\0\\0\\0\\2' + encode(Token(1, True, 'x')) + encode(hash((Token, 1))) + encode(None) * 2)", "[wf]*"),
    forges("a million forged arguments", "say('raised', 1, 'ValueError', 'E', 'x', tuple(range(10**6)))"),
    forges("a forged argument of a hundred million bits", "say('raised', 1, 'KeyError', 'E', 'x', (1 << 100_000_000,))"),
    forges("six million forged lists", "raw(b't\\0\\0\\0\\5' + encode('returned') + encode(1) + b'l' + struct.pack('>I', 6_000_000) + b'l\\0\\0\\0\\0' * 6_000_000 + encode(None) * 2)", "[tmf]*"),
    forges("forged numbers that all have one hash", "raw(b't\\0\\0\\0\\5' + encode('returned') + encode(1) + encode({(2**61 - 1) * n for n in range(200_000)}, None, 1 << 25) + encode(None) * 2)", "[tf]*"),
]  # fmt: skip

ESCAPES = [*NOT_TO_BE_WRITTEN, *SMUGGLED]
