"""Programs that cheat, break out, or break down, each with the verdict that it must get.

Every one is asked for `f`, with `assert f(2) == 4` and `assert f(3) == 9`. `verdict` is what it gets where the kernel filters programs;
`unfiltered` what it gets where only limits hold, if that differs. A verdict ending in `*` may go on in any way.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.code_execution.sandbox import Assertions

TESTS = Assertions("assert f(2) == 4\nassert f(3) == 9\n", "f")
CANARY = "canary-4711-secret"


@dataclass(frozen=True)
class Hostile:
    """A program and its verdict."""

    name: str
    source: str
    verdict: str
    unfiltered: str | None = None

    @property
    def seconds(self) -> float:
        """What it is given: time enough for its own verdict on a busy machine, or little where it would never end."""
        return 1.0 if self.verdict[0] in "t*[" or (self.unfiltered or "x")[0] in "t*[" else 20.0


def _in_call(body: str) -> str:
    return "import os, sys\ndef f(x):\n" + "\n".join(f"    {line}" for line in body.strip("\n").splitlines()) + "\n"


ENDS_EARLY = [
    Hostile("exit at the top", "exit(0)", "exception(SystemExit)"),
    Hostile("sys.exit at the top", "import sys\nsys.exit(0)", "exception(SystemExit)"),
    Hostile("os._exit at the top", "import os\nos._exit(0)", "crashed(exit 0)"),
    Hostile("os._exit in the call", _in_call("os._exit(0)"), "crashed(exit 0)"),
    Hostile("SystemExit in the call", _in_call("raise SystemExit"), "exception(SystemExit)"),
    Hostile("KeyboardInterrupt", _in_call("raise KeyboardInterrupt"), "exception(KeyboardInterrupt)"),
    Hostile("GeneratorExit", _in_call("raise GeneratorExit"), "exception(GeneratorExit)"),
    Hostile("StopIteration", _in_call("raise StopIteration"), "exception(StopIteration)"),
    Hostile("its own AssertionError", _in_call("raise AssertionError"), "exception(AssertionError)"),
    Hostile("its own BaseException", "class E(BaseException): pass\ndef f(x): raise E", "exception(E)"),
    Hostile("atexit", "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0", "wrong_answer"),
    Hostile("exec of another program", _in_call("os.execv('/bin/true', ['true'])"), "forbidden(execve)", "crashed(exit 0)"),
    Hostile("abort", _in_call("os.abort()"), "crashed(SIGABRT)"),
    Hostile("kill itself", _in_call("os.kill(os.getpid(), 9)"), "crashed(SIGKILL)"),
    Hostile("sys.modules emptied", "import sys\nsys.modules.clear()\ndef f(x): return 0", "wrong_answer"),
]

LIES_ABOUT_EQUALITY = [
    Hostile(
        "equal to everything",
        "class A:\n  def __eq__(s, o): return True\n  def __bool__(s): return True\ndef f(x): return A()",
        "harness_error(*",
    ),
    Hostile(
        "int that is equal to everything",
        "class A(int):\n  def __eq__(s, o): return True\n  __hash__ = None\ndef f(x): return A(7)",
        "wrong_answer",
    ),
    Hostile("float that is equal to everything", "class A(float):\n  def __eq__(s, o): return True\ndef f(x): return A(7)", "wrong_answer"),
    Hostile("str that is equal to everything", "class A(str):\n  def __eq__(s, o): return True\ndef f(x): return A('7')", "wrong_answer"),
    Hostile("list that is equal to everything", "class A(list):\n  def __eq__(s, o): return True\ndef f(x): return A([7])", "wrong_answer"),
    Hostile(
        "metaclass that is equal to everything",
        "class M(type):\n  def __eq__(s, o): return True\nclass A(metaclass=M): pass\ndef f(x): return A",
        "harness_error(*",
    ),
    Hostile(
        "reflected comparison",
        "class A:\n  def __req__(s, o): return True\n  def __ne__(s, o): return False\ndef f(x): return A()",
        "harness_error(*",
    ),
    Hostile("pretends a class", "class A:\n  __class__ = int\n  def __eq__(s, o): return True\ndef f(x): return A()", "harness_error(*"),
    Hostile("not a number", "def f(x): return float('nan')", "wrong_answer"),
    Hostile("mock that answers anything", "from unittest.mock import MagicMock, ANY\ndef f(x): return ANY", "harness_error(*"),
    Hostile(
        "AssertionError patched",
        "import builtins\nclass A(Exception): pass\nbuiltins.AssertionError = A\ndef f(x): return 0",
        "wrong_answer",
    ),
    Hostile("operator.eq patched", "import operator\noperator.eq = lambda a, b: True\ndef f(x): return 0", "wrong_answer"),
    Hostile(
        "builtins patched",
        "import builtins\nfor n in ('all', 'any', 'abs', 'len', 'isinstance'): setattr(builtins, n, lambda *a: True)\ndef f(x): return 0",
        "forbidden(channel)",
    ),
    Hostile("unittest patched", "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0", "wrong_answer"),
    Hostile(
        "math patched",
        "import math, sys\nmath.isclose = lambda *a, **k: True\nsys.modules['math'] = None\ndef f(x): return 0",
        "wrong_answer",
    ),
    Hostile("functions named as built-ins", "def abs(*a): return 0\ndef len(*a): return 4\ndef f(x): return 0", "wrong_answer"),
    Hostile(
        "int's own comparison through ctypes",
        "import ctypes\ndef f(x):\n  ctypes.c_long.from_address(id(4) + 24).value = 0\n  return 0",
        "forbidden(channel)",
    ),
]

LOOKS_FOR_THE_ANSWER = [
    Hostile("trace function", "import sys\ng = []\nsys.settrace(lambda fr, e, a: g.append(fr))\ndef f(x):\n  return [v for fr in g for v in fr.f_locals.values()]", "timeout"),
    Hostile("frames of the caller", "import sys\ndef f(x):\n  fr = sys._getframe()\n  while fr.f_back: fr = fr.f_back\n  return fr.f_locals.get('expected', 0)", "wrong_answer"),
    Hostile("objects of the collector", "import gc\ndef f(x):\n  return [o for o in gc.get_objects() if isinstance(o, str) and 'assert' in o][:1] or 0", "wrong_answer"),
    Hostile("tests in its memory", _in_call("return open('/proc/self/mem', 'rb').read(10)"), "exception(*", "exception(*"),
    Hostile("its maps", _in_call("return open('/proc/self/maps').read()"), "exception(*", "*"),
    Hostile("its parent's memory", _in_call("return open(f'/proc/{os.getppid()}/mem', 'rb').read(10)"), "exception(*"),
    Hostile("its parent's environment", _in_call("return open(f'/proc/{os.getppid()}/environ').read()"), "exception(*"),
    Hostile("its parent's descriptors", _in_call("return os.listdir(f'/proc/{os.getppid()}/fd')"), "exception(*"),
    Hostile("every environment", _in_call("""
found = []
for pid in os.listdir('/proc'):
    try: found.append(open(f'/proc/{pid}/environ').read())
    except OSError: pass
raise ValueError(''.join(found))"""), "exception(*", "*"),
    Hostile("its own descriptors", _in_call("return [os.read(n, 100) for n in range(4, 64)]"), "exception(OSError)"),
    Hostile("reads what the tester sends", _in_call("os.set_blocking(3, False)\nreturn os.read(3, 1000)"), "[ce]*"),
    Hostile("ptrace of the server", "import ctypes, os\ndef f(x): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", "forbidden(ptrace)", "wrong_answer"),
    Hostile("another process's memory", "import ctypes, os\nL = ctypes.CDLL(None)\ndef f(x): return L.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)", "forbidden(process_vm_readv)", "wrong_answer"),
]  # fmt: skip

FORGES = [
    Hostile("a pass on every descriptor", _in_call("""
for n in range(64):
    try: os.write(n, b'{"verdict": ["pass", ""]}\\npass\\n' * 10)
    except OSError: pass
return 0"""), "forbidden(channel)"),
    Hostile("random bytes to the tester", _in_call("os.write(3, bytes(range(256)) * 8)\nreturn 0"), "timeout"),
    Hostile("a frame of four gigabytes", _in_call("os.write(3, b'\\xff' * 4 + b'x' * 100)\nreturn 0"), "forbidden(channel)"),
    Hostile("half a frame, then the end", _in_call("os.write(3, b'\\x00\\x00\\xff\\x00abc')\nos._exit(0)"), "crashed(exit 0)"),
    Hostile("answers ahead of the question", _in_call("""
from inside.codec import encode
import struct
data = encode(('returned', 2, 9, None))
os.write(3, struct.pack('>I', len(data)) + data)
return 0"""), "forbidden(channel)"),
    Hostile("an answer with a name of its own", _in_call("""
from inside.codec import encode
import struct
data = encode(('pass', 1, 4, None))
os.write(3, struct.pack('>I', len(data)) + data)
return 0"""), "forbidden(channel)"),
    Hostile("arguments changed into something else", _in_call("""
from inside.codec import encode
import struct
data = encode(('returned', 1, 0, ('x', 'y')))
os.write(3, struct.pack('>I', len(data)) + data)
return 0"""), "forbidden(channel)"),
    Hostile("the channel closed", _in_call("os.close(3)\nwhile True: pass"), "crashed(SIGKILL)"),
    Hostile("an unpickling bomb", "import os\nclass A:\n  def __reduce__(s): return (os._exit, (0,))\ndef f(x): return A()", "harness_error(*"),
    Hostile("json and pickle replaced", "import json, pickle, sys\njson.dumps = pickle.dumps = lambda *a, **k: '4'\nsys.modules['struct'] = None\ndef f(x): return 0", "wrong_answer"),
    Hostile("the codec replaced", "import inside.program as p\np.encode = lambda *a, **k: b'i' + bytes(8)\ndef f(x): return 0", "forbidden(channel)"),
    Hostile("a module that shadows the harness's", _in_call("""
for place in ('.', *sys.path, '/sandbox', os.path.expanduser('~')):
    try:
        with open(os.path.join(place, 'struct.py'), 'w') as file: file.write('raise SystemExit')
    except OSError: pass
return 0"""), "wrong_answer"),
]  # fmt: skip

NEVER_ENDS = [
    Hostile("endless loop", _in_call("while True: pass"), "timeout"),
    Hostile("endless loop at the top", "while True: pass", "timeout"),
    Hostile("endless loop in C", "import itertools\ndef f(x): return sum(iter(int, 1))", "timeout"),
    Hostile("endless regular expression", "import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    Hostile("endless sleep", "import time\ndef f(x): time.sleep(10**6)", "timeout"),
    Hostile("a power of a power", _in_call("return 9 ** 9 ** 9"), "timeout", "*"),
    Hostile("a generator without end", "import itertools\ndef f(x): return itertools.count()", "harness_error(*"),
    Hostile(
        "ignores SIGTERM and SIGALRM",
        "import signal\nfor s in (1, 2, 3, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\ndef f(x):\n  while True: pass",
        "timeout",
    ),
    Hostile("catches everything", _in_call("while True:\n  try:\n    while True: pass\n  except BaseException: pass"), "timeout"),
    Hostile("waits for a thread", "import threading\ndef f(x): threading.Event().wait()", "timeout"),
    Hostile(
        "drips bytes to the tester", _in_call("import time\nwhile True:\n  os.write(3, b'\\0')\n  time.sleep(0.2)"), "forbidden(channel)"
    ),
    Hostile("input", _in_call("return input()"), "exception(EOFError)"),
    Hostile("stopped", _in_call("os.kill(os.getpid(), 19)"), "timeout"),
    Hostile("a set that takes for ever to build", "M = (1 << 61) - 1\ndef f(x): return {i * M for i in range(200000)}", "timeout"),
]

TAKES_TOO_MUCH = [
    Hostile("eight gigabytes of list", _in_call("return len([0] * (1 << 30))"), "memory"),
    Hostile("eight gigabytes of text", _in_call("return len('x' * (8 << 30))"), "memory"),
    Hostile("many small maps", "import mmap\ng = []\ndef f(x):\n  while True: g.append(mmap.mmap(-1, 1 << 20))", "exception(OSError)"),
    Hostile("a list that grows", "def f(x):\n  l = []\n  while True: l.append('x' * 10**6 + str(len(l)))", "memory"),
    Hostile("a hoard that outlives the call", "l = []\ndef f(x):\n  while True: l.append('x' * 5000)", "memory"),
    Hostile("a result of a hundred megabytes", _in_call("return 'x' * (1 << 27)"), "output_limit(result)"),
    Hostile("a result with a million levels", _in_call("r = []\nfor _ in range(10**6): r = [r]\nreturn r"), "output_limit(result)"),
    Hostile("a result that holds itself", _in_call("r = []\nr.append(r)\nreturn r"), "output_limit(result)"),
    Hostile("an integer of a hundred megabytes", _in_call("return 1 << (800 << 20)"), "output_limit(result)"),
    Hostile("endless output", _in_call("while True: print('x' * 1000)"), "output_limit"),
    Hostile("endless errors", _in_call("while True: print('x' * 1000, file=sys.stderr)"), "output_limit"),
    Hostile("a file of ten gigabytes", _in_call("with open('big', 'wb') as b:\n  while True: b.write(b'x' * (1 << 20))"), "output_limit*"),
    Hostile("a sparse file", _in_call("with open('big', 'wb') as b: b.truncate(10 << 30)"), "output_limit*"),
    Hostile("many files", _in_call("i = 0\nwhile True:\n  i += 1\n  open(f'file{i}', 'wb').write(b'x' * 100000)"), "*"),
    Hostile("folders within folders", _in_call("while True:\n  os.mkdir('d')\n  os.chdir('d')"), "*"),
    Hostile("files kept open", _in_call("g = [open('/dev/null') for _ in range(10000)]"), "exception(OSError)"),
    Hostile("deep recursion", _in_call("return f(x)"), "exception(RecursionError)"),
    Hostile("deep recursion without limit", "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]", "*"),
    Hostile("segmentation fault", "import ctypes\ndef f(x): ctypes.string_at(0)", "crashed(SIGSEGV)"),
    Hostile("limits set back up", "import resource\ndef f(x): resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "exception(ValueError)"),
    Hostile(
        "thread bomb",
        "import threading, time\nthreading.stack_size(65536)\ndef f(x):\n  while True: threading.Thread(target=time.sleep, args=(100,)).start()",
        "forbidden(thread)",
        "*",
    ),
    Hostile("fork bomb", _in_call("while True: os.fork()"), "forbidden(fork)", "*"),
    Hostile("fork bomb at the top", "import os\nwhile True: os.fork()", "forbidden(fork)", "*"),
]

REACHES_OUT = [
    Hostile("daemon that outlives it", _in_call("""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(1000)
    os._exit(0)
return 0"""), "forbidden(fork)", "wrong_answer"),
    Hostile("a subprocess", "import subprocess\ndef f(x): return subprocess.run(['id'], capture_output=True).stdout", "forbidden(fork)", "*"),
    Hostile("multiprocessing", "import multiprocessing as m\ndef f(x):\n  p = m.Process(target=print)\n  p.start()", "forbidden(fork)", "*"),
    Hostile("os.system", _in_call("return os.system('true')"), "forbidden(fork)", "wrong_answer"),
    Hostile("TCP", "import socket\ndef f(x): socket.create_connection(('127.0.0.1', 22))", "forbidden(socket)", "exception(*"),
    Hostile("UDP", "import socket\ndef f(x): socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))", "forbidden(socket)", "wrong_answer"),
    Hostile("UNIX socket", "import socket\ndef f(x):\n  s = socket.socket(1)\n  s.bind('s')\n  s.connect('/run/systemd/journal/stdout')", "forbidden(socket)", "exception(*"),
    Hostile("abstract UNIX socket", "import socket\ndef f(x):\n  s = socket.socket(1)\n  s.bind('\\0align')\n  s.listen()", "forbidden(socket)", "wrong_answer"),
    Hostile("netlink", "import socket\ndef f(x): socket.socket(16, 3, 0)", "forbidden(socket)", "*"),
    Hostile("a pair that can send anywhere", "import socket\ndef f(x):\n  a, b = socket.socketpair(1, 2)\n  a.sendto(b'x', '\\0align')", "forbidden(socketpair)", "exception(*"),
    Hostile("DNS", "import socket\ndef f(x): socket.gethostbyname('example.org')", "forbidden(socket)", "*"),
    Hostile("kill everybody", _in_call("os.kill(-1, 9)"), "forbidden(kill)", "crashed(*"),
    Hostile("kill the parent", _in_call("os.kill(os.getppid(), 9)"), "forbidden(kill)", "*"),
    Hostile("kill the first process", _in_call("os.kill(1, 9)"), "forbidden(kill)", "exception(PermissionError)"),
    Hostile("kill the siblings", _in_call("for pid in range(2, 5000):\n  try: os.kill(pid, 9)\n  except OSError: pass"), "forbidden(kill)", "*"),
    Hostile("signals through a descriptor", "import fcntl, os\ndef f(x):\n  fcntl.fcntl(1, 8, os.getppid())", "forbidden(fcntl)", "wrong_answer"),
    Hostile("new namespaces", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.unshare(0x10000000)", "forbidden(unshare)", "wrong_answer"),
    Hostile("a mount", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.mount(b'none', b'.', b'tmpfs', 0, 0)", "forbidden(mount)", "wrong_answer"),
    Hostile("the clock", "import time\ndef f(x): time.clock_settime(time.CLOCK_REALTIME, 0)", "forbidden(clock_settime)", "exception(PermissionError)"),
    Hostile("keys of the kernel", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.syscall(250, 0, -3, 0)", "forbidden(keyctl)", "wrong_answer"),
    Hostile("bpf", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.syscall(321, 0, 0, 0)", "forbidden(bpf)", "wrong_answer"),
    Hostile("io_uring", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.syscall(425, 1, ctypes.create_string_buffer(120))", "forbidden(io_uring_setup)", "wrong_answer"),
    Hostile("memory behind a descriptor", _in_call("return os.memfd_create('x')"), "forbidden(memfd_create)", "wrong_answer"),
    Hostile("another user", _in_call("os.setuid(0)"), "forbidden(setuid)", "exception(PermissionError)"),
    Hostile("clone3", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.syscall(435, 0, 0)", "wrong_answer"),
    Hostile("calls of another architecture", "import ctypes\nL = ctypes.CDLL(None)\ndef f(x): return L.syscall(0x40000000 + 39)", "wrong_answer"),
    Hostile("environment", _in_call("raise ValueError(str(dict(os.environ)))"), "exception(ValueError)"),
    Hostile("secret keys", _in_call("return open(os.path.expanduser('~/.ssh/id_rsa')).read()"), "exception(*"),
    Hostile("users", _in_call("return open('/etc/passwd').read()"), "exception(*", "wrong_answer"),
    Hostile("files of the host", _in_call("raise ValueError(open('@canary@').read())"), "exception(*", "exception(PermissionError)"),
    Hostile("a file in the home folder", _in_call("open('@home@/align-was-here', 'w').write('x')"), "exception(*"),
    Hostile("a file in the shared temporary folder", _in_call("open('/tmp/align-was-here', 'w').write('x')\nreturn 0"), "exception(*", "wrong_answer"),
    Hostile("a file in shared memory", _in_call("open('/dev/shm/align-was-here', 'w').write('x')\nreturn 0"), "exception(*", "wrong_answer"),
    Hostile("a file in the interpreter's folder", _in_call("open(os.path.join(os.path.dirname(os.__file__), 'align_was_here.py'), 'w')"), "exception(*"),
    Hostile("a file of the host made accessible", _in_call("os.chmod('@canary@', 0o777)"), "exception(*"),
    Hostile("a way up", _in_call("os.chdir('../../../..')\nreturn os.listdir('root')"), "exception(*"),
    Hostile("a link to the host", _in_call("os.symlink('/etc/shadow', 'link')\nreturn open('link').read()"), "exception(*"),
    Hostile("a protected folder left behind", _in_call("os.makedirs('a/b')\nos.chmod('a', 0)\nreturn 0"), "exception(*", "wrong_answer"),
]  # fmt: skip

_LIAR = "\n  def __eq__(s, o): return True\n  def __ne__(s, o): return False\n  __hash__ = None\n"


def _subclass(base: str, made: str) -> str:
    """A program that returns a value of a subclass that claims to be equal to everything."""
    module = base.rpartition(".")[0]
    return f"import {module}\nclass A({base}):{_LIAR}def f(x): return {made}"


def _forged(parts: str) -> str:
    """A program that answers with a standard value's parts that no program's process would send."""
    return _in_call(f"""
from inside.codec import encode
import struct
value = b'x' + encode({parts})[1:]
data = b't' + struct.pack('>I', 4) + encode('returned') + encode(1) + value + b'N'
os.write(3, struct.pack('>I', len(data)) + data)
return 0""")


STANDARD_VALUES = [
    Hostile("a Decimal that is equal to everything", _subclass("decimal.Decimal", "A(7)"), "wrong_answer"),
    Hostile("a Fraction that is equal to everything", _subclass("fractions.Fraction", "A(7)"), "wrong_answer"),
    Hostile("a deque that is equal to everything", _subclass("collections.deque", "A([7])"), "wrong_answer"),
    Hostile("a Counter that is equal to everything", _subclass("collections.Counter", "A('a')"), "wrong_answer"),
    Hostile("an OrderedDict that is equal to everything", _subclass("collections.OrderedDict", "A(a=1)"), "wrong_answer"),
    Hostile("a defaultdict that is equal to everything", _subclass("collections.defaultdict", "A(lambda: 4)"), "wrong_answer"),
    Hostile("a date that is equal to everything", _subclass("datetime.date", "A(2024, 1, 1)"), "wrong_answer"),
    Hostile("a timedelta that is equal to everything", _subclass("datetime.timedelta", "A(4)"), "wrong_answer"),
    Hostile("a named tuple that is equal to everything", f"from collections import namedtuple\nclass A(namedtuple('A', 'x')):{_LIAR}def f(x): return A(7)", "wrong_answer"),
    Hostile("a member that is equal to everything", f"import enum\nclass A(enum.IntEnum):{_LIAR}  X = 7\ndef f(x): return A.X", "wrong_answer"),
    Hostile("a flag that is equal to everything", f"import enum\nclass A(enum.Flag):{_LIAR}  X = 4\ndef f(x): return A.X", "harness_error(*"),
    Hostile("a class that calls itself Decimal", "class Decimal:\n  __module__ = 'decimal'\n  def is_finite(s): return True\n  def adjusted(s): return 0\n  def __str__(s): return '7'\ndef f(x): return Decimal()", "*"),
    Hostile("a class that calls itself an array", "class ndarray:\n  __module__ = 'numpy'\n  nbytes = 8\n  shape = ()\n  class dtype:\n    hasobject = False\n    str = '<i8'\n  def tobytes(s): return bytes(8)\ndef f(x): return ndarray()", "*"),
    Hostile("a gigantic Decimal", "from decimal import Decimal\ndef f(x): return Decimal('1e999999999')", "harness_error(*"),
    Hostile("a Decimal that signals", "from decimal import Decimal\ndef f(x): return Decimal('sNaN')", "wrong_answer(InvalidOperation)"),
    Hostile("a Decimal of a million digits", "from decimal import Decimal\ndef f(x): return Decimal('1' * 10**6)", "harness_error(*"),
    Hostile("a fraction of huge integers", "from fractions import Fraction\ndef f(x): return Fraction((1 << 10**6) + 1, 1 << 10**6)", "harness_error(*"),
    Hostile("an integer of ten million digits", "def f(x): return 1 << 33219281", "wrong_answer"),
    Hostile("digits of an integer in an error", "def f(x): raise ValueError(1 << 400000)", "exception(ValueError)"),
    Hostile("a forged Decimal", _forged("('Decimal', ('1e999999999',))"), "forbidden(channel)"),
    Hostile("a forged fraction", _forged("('Fraction', (1, 1 << 10**6))"), "forbidden(channel)"),
    Hostile("a fraction without a denominator", _forged("('Fraction', (1, 0))"), "forbidden(channel)"),
    Hostile("a forged member", _forged("('Enum', ('X', 4.5))"), "forbidden(channel)"),
    Hostile("a member of the right value, once", _forged("('Enum', ('X', 4))"), "forbidden(channel)"),
    Hostile("a deque without end", _forged("('deque', (range(1 << 60), None))"), "forbidden(channel)"),
    Hostile("a shape without end", _forged("('ndarray', ('<i8', range(1 << 60), b''))"), "forbidden(channel)"),
    Hostile("an array of an exabyte", _forged("('ndarray', ('<i8', (1 << 57,), b''))"), "forbidden(channel)"),
    Hostile("an array of addresses", _forged("('ndarray', ('|O8', (1,), bytes(8)))"), "forbidden(channel)"),
    Hostile("bytes from a number", _forged("('bytearray', (1 << 40,))"), "forbidden(channel)"),
    Hostile("a date that is none", _forged("('date', (2024, 13, 40))"), "forbidden(channel)"),
    Hostile("a date as it is pickled", _forged("('date', (bytes([7, 232, 1, 255]),))"), "forbidden(channel)"),
    Hostile("a named tuple with a method", _forged("('namedtuple', ('P', ('__eq__',), (1,)))"), "forbidden(channel)"),
    Hostile("a type of its own", _forged("('eval', ('4',))"), "forbidden(channel)"),
    Hostile("an iterator that counts", "import itertools\ndef f(x): return itertools.count(4)", "harness_error(*"),
    Hostile("exceptions named as built-ins", "class AssertionError(BaseException): pass\nclass TypeError(AssertionError): pass\ndef f(x): raise AssertionError", "exception(AssertionError)"),
    Hostile("a name that the tests' language has", "__builtins__ = 4\ntrue = True\nassert_ = 4\ndef f(x): return 0", "*"),
]  # fmt: skip

WITH_NUMPY = [
    Hostile("objects in an array that are equal to everything", f"import numpy as np\nclass A:{_LIAR}def f(x): return np.array([A()], dtype=object)", "harness_error(*"),
    Hostile("an array of a subclass", f"import numpy as np\nclass A(np.ndarray):{_LIAR}def f(x): return np.zeros(1).view(A)", "harness_error(*"),
    Hostile("a number of a subclass", f"import numpy as np\nclass A(np.float64):{_LIAR}def f(x): return A(7)", "wrong_answer"),
    Hostile("an array of a gigabyte", "import numpy as np\ndef f(x): return np.broadcast_to(np.int64(4), (1 << 27,))", "output_limit(result)"),
    Hostile("an array that is empty", "import numpy as np\ndef f(x): return np.array([])", "wrong_answer*"),
    Hostile("not a number, not a time", "import numpy as np\ndef f(x): return np.datetime64('NaT')", "wrong_answer*"),
    Hostile("a truth of two", _forged("('generic', ('|b1', bytes([2])))"), "forbidden(channel)"),
    Hostile("text of no characters", _forged("('generic', ('<U1', b'\\xff' * 4))"), "*"),
]  # fmt: skip

UNWRITABLE = [
    Hostile("half a character in the reason of an import", "raise ImportError('\\ud800')", "import_error(*"),
    Hostile("half a character in the name of a module", "raise ModuleNotFoundError(name='a\\udfff')", "import_error*"),
    Hostile("half a character in the name of an exception", "raise type('E\\ud800', (Exception,), {})", "exception(*"),
    Hostile("half a character in the name of a call's exception", _in_call("raise type('\\udfff', (ValueError,), {})"), "exception(*"),
    Hostile("half a character in the reason of a call's exception", _in_call("raise KeyError('\\udcff')"), "exception(KeyError)"),
    Hostile("half a character returned", "def f(x): return '\\ud800'", "wrong_answer"),
    Hostile("half a character as a key", "def f(x): return {'\\ud800': 4}", "wrong_answer"),
    Hostile("half a character printed", "print('\\ud800')\ndef f(x): return x", "exception(UnicodeEncodeError)"),
    Hostile("half a character in the program", "s = '\ud800'\ndef f(x): return x", "exception(UnicodeEncodeError)"),
    Hostile("bytes that are no text printed", _in_call("sys.stdout.buffer.write(bytes(range(256)) * 9)\nreturn 0"), "wrong_answer"),
    Hostile("fifteen million characters of a name", "raise type('E' * 15_000_000, (Exception,), {})", "exception(E*"),
    Hostile("fifteen million characters of a reason", _in_call("raise ValueError('x' * 15_000_000)"), "exception(ValueError)"),
]  # fmt: skip

HOSTILE = [
    *ENDS_EARLY,
    *LIES_ABOUT_EQUALITY,
    *LOOKS_FOR_THE_ANSWER,
    *FORGES,
    *NEVER_ENDS,
    *TAKES_TOO_MUCH,
    *REACHES_OUT,
    *STANDARD_VALUES,
    *UNWRITABLE,
]
