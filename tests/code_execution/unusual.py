"""Unusual programs that are right: each passes as a file that plain Python runs (test_unusual.py shows it), and each passes here too.

In `BEYOND_THE_SANDBOX` are those that it cannot judge or does not allow, each with the reason that it says.
"""

from __future__ import annotations

from honest import Honest, asserts, writes

THREADS_AND_SIGNALS = [
    writes("a thousand threads, one after another", """
import threading
count = 0
def work():
    global count
    count += 1
for _ in range(1000):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(count)
""", "1000"),
    writes("thirty threads at once", """
import threading
barrier, done = threading.Barrier(30), []
def work(n):
    barrier.wait()
    done.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(30)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(done))
""", "435"),
    writes("hundreds of tasks in a pool", "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as p: print(sum(p.map(lambda x: x * x, range(500))))", "41541750"),
    writes("a thread for each line", """
import sys, threading
found = {}
def work(n, line): found[n] = sum(map(int, line.split()))
threads = [threading.Thread(target=work, args=pair) for pair in enumerate(sys.stdin)]
[t.start() for t in threads]; [t.join() for t in threads]
print(*(found[n] for n in sorted(found)), sep='\\n')
""", "\n".join(str(2 * n) for n in range(200)), "".join(f"{n} {n}\n" for n in range(200))),
    writes("a daemon thread that never ends", "import threading, time\nthreading.Thread(target=lambda: time.sleep(1e6), daemon=True).start()\nprint('main')", "main"),
    writes("a daemon that reads on", "import sys, threading\nlines = []\nt = threading.Thread(target=lambda: lines.extend(sys.stdin), daemon=True)\nt.start()\nt.join()\nprint(len(lines))", "2", "a\nb\n"),
    writes("a timer, a queue, an event", "import queue, threading\nq, e = queue.Queue(), threading.Event()\nthreading.Timer(0.01, lambda: (q.put(5), e.set())).start()\ne.wait()\nprint(q.get())", "5"),
    writes("an exception in a thread", "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()\nprint('goes on')", "goes on"),
    writes("threads with values of their own", "import threading, contextvars\nv = contextvars.ContextVar('v', default=1)\nlocal = threading.local()\ndef work():\n  local.x = 2\n  v.set(3)\nt = threading.Thread(target=work)\nt.start()\nt.join()\nprint(v.get(), hasattr(local, 'x'))", "1 False"),
    writes("an alarm that is never needed", "import signal\nsignal.alarm(5)\nx = sum(range(1000))\nsignal.alarm(0)\nprint(x)", "499500"),
    writes("an alarm that ends a search", """
import signal
class Enough(Exception): pass
def stop(*_): raise Enough
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.05)
def search():
    while True: pass
try:
    search()
except Enough:
    print('best so far')
""", "best so far"),
    writes("a signal to itself", "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('got it'))\nos.kill(os.getpid(), signal.SIGUSR1)", "got it"),
    writes("an interruption that is caught", "import signal\ntry:\n  signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n  print('bye')", "bye"),
    writes("coroutines", """
import asyncio
async def produce(queue):
    for n in range(5):
        await queue.put(n)
        await asyncio.sleep(0)
    await queue.put(None)
async def main():
    queue = asyncio.Queue(2)
    task = asyncio.create_task(produce(queue))
    total = 0
    while (n := await queue.get()) is not None: total += n
    await task
    total += await asyncio.get_running_loop().run_in_executor(None, sum, [1, 2])
    async with asyncio.timeout(5): return total
print(asyncio.run(main()))
""", "13"),
]  # fmt: skip

ENDINGS = [
    writes("functions at the end, last first", "import atexit\nfor n in (1, 2): atexit.register(print, n)\nprint(0)", "0\n2\n1"),
    writes("a function at the end that fails", "import atexit\natexit.register(print, 'after')\natexit.register(lambda: 1 / 0)\nprint('before')", "before\nafter"),
    writes("a finalizer at the end", "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'gone')\nprint(1)", "1\ngone"),
    writes("a hard exit after a flush", "import os, sys\nprint(6)\nsys.stdout.flush()\nos._exit(0)", "6"),
    writes("a hard exit in a thread", "import os, threading, time\nthreading.Thread(target=lambda: (print(7, flush=True), os._exit(0))).start()\ntime.sleep(1e6)", "7"),
    writes("a hard exit in a finally", "import os\ntry:\n  os.write(1, b'8')\nfinally:\n  os._exit(0)", "8"),
    writes("all descriptors closed", "import os\nprint(9, flush=True)\nos.closerange(3, 1000)", "9"),
    writes("sys.exit in main, with a finally", "import sys\ndef main():\n  try:\n    print('work')\n    sys.exit()\n  finally:\n    print('clean')\nif __name__ == '__main__':\n  main()\n  print('never')", "work\nclean"),
    writes("main's value as the status", "def main():\n  print(int(input()) * 2)\n  return 0\nif __name__ == '__main__':\n  raise SystemExit(main())", "8", "4"),
    writes("sys.exit in a thread", "import sys, threading\nt = threading.Thread(target=sys.exit)\nt.start()\nt.join()\nprint('main')", "main"),
    writes("nothing flushed", "import sys\nsys.stdout.write('no line end')", "no line end"),
    writes("flushed bit by bit", "for n in range(3): print(n, end='', flush=True)", "012"),
]  # fmt: skip

INPUT_AND_OUTPUT = [
    writes("input until the end of file", "total = 0\ntry:\n  while True: total += int(input())\nexcept EOFError:\n  print(total)", "6", "1\n2\n3"),
    writes("input with a prompt", "name = input('name? ')\nprint('hi', name)", "name? hi Bo", "Bo\n"),
    writes("lines until an empty one", "print(sum(map(int, iter(input, ''))))", "3", "1\n2\n\n9\n"),
    writes("character by character", "import sys\nn = 0\nwhile c := sys.stdin.read(1): n += c == 'a'\nprint(n)", "3", "banana"),
    writes("bytes", "import sys\ndata = sys.stdin.buffer.read()\nsys.stdout.buffer.write(data[::-1])", "cba", "abc"),
    writes("lines of bytes", "import sys\nread = sys.stdin.buffer.readline\nn = int(read())\nprint(max(int(read()) for _ in range(n)))", "7", "2\n7\n5\n"),
    writes("output gathered as fast programs do", "import io, os\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size or 1 << 16)).readline\nprint(int(input()) + int(input()))", "5", "2\n3\n"),
    writes("JSON and tables from standard input", "import csv, json, sys\nhead = json.loads(input())\nprint([row[head['column']] for row in csv.reader(sys.stdin)])", "['2', '5']", '{"column": 1}\n1,2,3\n4,"5",6\n'),
    writes("waits for standard input", "import select, sys\nselect.select([sys.stdin], [], [], 5)\nprint(sys.stdin.isatty(), sys.stdin.fileno(), input())", "False 0 x", "x\n"),
    writes("standard streams swapped and put back", "import io, sys\nsys.stdin, old = io.StringIO('5'), sys.stdin\nn = int(input())\nsys.stdin = old\nbuffer = io.StringIO()\nsys.stdout = buffer\nprint(n)\nsys.stdout = sys.__stdout__\nprint(int(buffer.getvalue()) + int(input()))", "12", "7\n"),
    writes("a second descriptor, a pipe", "import os\nr, w = os.pipe()\nos.write(w, b'piped')\nout = os.fdopen(os.dup(1), 'w')\nout.write(os.read(r, 9).decode())\nout.close()", "piped"),
    writes("a stream set up anew", "import sys\nsys.stdout.reconfigure(encoding='utf-8', line_buffering=True)\nprint('ä')", "ä"),
    writes("a hundred thousand lines", "for n in range(100_000): print(n)", "\n".join(map(str, range(100_000)))),
    writes("nearly a megabyte of errors", "import sys\nsys.stderr.write('x' * 900_000)\nprint('ok')", "ok"),
    writes("other alphabets", "αβγ = input()\nprint(αβγ[::-1], len(αβγ), '🙂é'.encode().hex())", "שלום 4 f09f9982c3a9", "םולש"),
    writes("a program of its own with a byte-order mark", "\ufeffprint(input())", "ok", "ok"),
    writes("form feeds, tabs, Windows line ends", "def f():\r\n\tif True:\r\n\t\treturn 3\r\n\x0c\r\nprint(f())\r\n", "3"),
    writes("a declared encoding", "#!/usr/bin/env python3\n# -*- coding: latin-1 -*-\nprint(len('abc'))", "3"),
    writes("warnings", "import warnings\nwarnings.warn('old')\nwarnings.simplefilter('error')\ntry:\n  warnings.warn('new')\nexcept UserWarning as e:\n  print(e)", "new"),
    writes("logging", "import logging, sys\nlogging.basicConfig(stream=sys.stdout, format='%(levelname)s:%(message)s', level=logging.INFO)\nlogging.info('x=%d', 3)\nlogging.getLogger('a').error('no')", "INFO:x=3\nERROR:no"),
    writes("a locale", "import locale\nlocale.setlocale(locale.LC_ALL, '')\nprint(locale.format_string('%.2f', 1234.5))", "1234.50"),
    writes("files of its own", """
import csv, glob, json, os, pathlib, shutil, tempfile, zipfile
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'a.json'
    path.write_text(json.dumps({'n': 3}))
    shutil.copy(path, path.with_name('b.json'))
    with zipfile.ZipFile(f'{folder}/c.zip', 'w') as archive: archive.write(path, 'a.json')
    print(sorted(map(os.path.basename, glob.glob(f'{folder}/*'))), json.load(open(f'{folder}/b.json'))['n'])
with tempfile.NamedTemporaryFile('w+') as file:
    csv.writer(file).writerow([1, 'x'])
    file.seek(0)
    print(file.read().strip())
""", "['a.json', 'b.json', 'c.zip'] 3\n1,x"),
    writes("a file of input that is not there", "import os, sys\nif os.path.exists('input.txt'): sys.stdin = open('input.txt')\ntry: open('no.txt')\nexcept FileNotFoundError: print(input())", "x", "x"),
]  # fmt: skip

LOOKS_AT_ITSELF = [
    writes("its own source", "import inspect\ndef f(x):\n    return x + 1\nprint(inspect.getsource(f))", "def f(x):\n    return x + 1"),
    writes("pickles of its own classes", "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n  x: int\n  class Q: pass\nprint(pickle.loads(pickle.dumps([P(1), P.Q])) == [P(1), P.Q])", "True"),
    writes("itself by name", "import __main__, sys\nX = 4\nprint(__main__.X, sys.modules[__name__].X, globals()['X'], __name__)", "4 4 4 __main__"),
    writes("code that it makes", "ns = {}\nexec(compile('def g(x): return x * 2', 'made', 'exec'), ns)\nprint(ns['g'](4), eval('a + 1', {'a': 2}), __import__('math').gcd(4, 6))", "8 3 2"),
    writes("its own annotations", '"""Docs."""\nfrom __future__ import annotations\nimport typing\nclass P:\n  x: list[int]\ny: int = 2\nprint(__doc__, __annotations__, typing.get_type_hints(P))', "Docs. {'y': 'int'} {'x': list[int]}"),
    writes("its own documentation's examples", 'def f(x):\n  """\n  >>> f(2)\n  4\n  """\n  return x * x\nimport doctest\nprint(doctest.testmod())', "TestResults(failed=0, attempted=1)"),
    writes("its own unit tests", "import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(1 + 1, 2)\nif __name__ == '__main__':\n  unittest.main(exit=False)\n  print('done')", "done"),
    writes("its own trace", "import sys\nseen = []\ndef trace(frame, event, arg):\n  seen.append(event)\n  return trace\ndef f(): return 1\nsys.settrace(trace)\nf()\nsys.settrace(None)\nprint(seen)", "['call', 'line', 'return']"),
    writes("its own exceptions' traces", "import traceback\ntry:\n  {}['k']\nexcept KeyError as e:\n  print(traceback.extract_tb(e.__traceback__)[-1].lineno, traceback.format_exception_only(e)[0].strip())", "3 KeyError: 'k'"),
    writes("the end of its stack and of its memory", "def f(n): return f(n + 1)\ntry: f(0)\nexcept RecursionError: print('deep')\ntry: x = [0] * 10**13\nexcept MemoryError: print('large')", "deep\nlarge"),
    writes("its surroundings", "import os, platform, shutil, socket, sys\nprint(sys.platform, os.name, len(sys.argv), bool(socket.gethostname()), platform.system(), shutil.get_terminal_size((80, 24))[1] > 0, os.path.isdir(os.getcwd()), os.cpu_count() >= 1)", "linux posix 1 True Linux True True True"),
    writes("a database in memory", "import sqlite3\nd = sqlite3.connect(':memory:')\nd.execute('create table t (x)')\nd.executemany('insert into t values (?)', [(1,), (2,)])\nprint(d.execute('select sum(x) from t').fetchone()[0])", "3"),
    writes("chance, time and digests", "import hashlib, random, secrets, time, uuid\nrandom.seed(42)\na = [random.randint(1, 9) for _ in range(5)]\nrandom.seed(42)\nprint(a == [random.randint(1, 9) for _ in range(5)], time.time() > 1.6e9, len(secrets.token_hex(4)), uuid.uuid4().version, hashlib.sha256(b'').hexdigest()[:6])", "True True 8 4 e3b0c4"),
    writes("structures as C has them", "import array, ctypes, struct, mmap\nclass P(ctypes.Structure): _fields_ = [('x', ctypes.c_int), ('y', ctypes.c_double)]\nm = mmap.mmap(-1, 4096)\nm[:3] = b'abc'\nprint(ctypes.sizeof(P), struct.unpack('<h', b'\\x01\\x02'), array.array('i', [1, 2]).tolist(), m[:3])", "16 (513,) [1, 2] b'abc'"),
]  # fmt: skip

LANGUAGE = [
    asserts("patterns and walruses", "def f(x):\n  match x:\n    case [a, *rest] if (n := len(rest)) > 1: return a, n\n    case {'k': v, **rest}: return v\n    case str() | bytes(): return 'text'\n    case _: return None", "assert f([1, 2, 3]) == (1, 2)\nassert f({'k': 5, 'j': 1}) == 5\nassert f('x') == f(b'x') == 'text'\nassert f([1]) is None"),
    asserts("decorators of functions and classes", "import functools\ndef twice(g):\n  @functools.wraps(g)\n  def wrapper(*a, **k): return g(*a, **k) * 2\n  return wrapper\ndef counted(cls):\n  cls.count = 0\n  return cls\n@counted\nclass C: pass\n@twice\n@functools.lru_cache(maxsize=None)\ndef f(x, y=1):\n  C.count += 1\n  return x + y", "assert f(1) == 4\nassert f(1, y=2) == 6"),
    asserts("classes in classes, metaclasses, descriptors", "class M(type):\n  def __new__(m, n, b, d): return super().__new__(m, n, b, d | {'tag': n.lower()})\nclass D:\n  def __set_name__(s, o, n): s.n = n\n  def __get__(s, i, o): return s.n\nclass A(metaclass=M):\n  name = D()\n  class B:\n    class C: value = 3\ndef f(): return A.tag, A().name, A.B.C.value", "assert f() == ('a', 'name', 3)"),
    asserts("data classes, protocols, generics", "from dataclasses import dataclass, field, asdict, replace\nfrom typing import Generic, Protocol, TypeVar, runtime_checkable\nT = TypeVar('T')\n@runtime_checkable\nclass Sized(Protocol):\n  def __len__(self) -> int: ...\n@dataclass(order=True, frozen=True)\nclass P(Generic[T]):\n  x: T\n  tags: list[str] = field(default_factory=list, compare=False)\ndef f(x): return asdict(replace(P(x), tags=['a'])), P(1) < P(2), isinstance([], Sized)", "assert f(3) == ({'x': 3, 'tags': ['a']}, True, True)"),
    asserts("generators that are sent to", "def running():\n  total = 0\n  try:\n    while True: total += yield total\n  except ValueError:\n    yield -1\ndef f(xs):\n  g = running()\n  next(g)\n  return [g.send(x) for x in xs] + [g.throw(ValueError())]\ndef g(n): yield from (i * i for i in range(n))", "assert f([1, 2]) == [1, 3, -1]\nassert list(g(4)) == [0, 1, 4, 9]\nassert sum(g(3)) == 5"),
    asserts("groups of exceptions", "def f():\n  try:\n    raise ExceptionGroup('g', [ValueError(1), KeyError('k')])\n  except* ValueError as e:\n    a = [str(x) for x in e.exceptions]\n  except* KeyError:\n    a.append('k')\n  return a", "assert f() == ['1', 'k']"),
    asserts("an exception of two kinds", "class Bad(Exception): pass\nclass Worse(Bad, ValueError, LookupError): pass\ndef f(): raise Worse('no')", "for kind in (Worse, Bad, ValueError, LookupError):\n  try:\n    f()\n    assert False\n  except kind as e:\n    assert str(e) == 'no'"),
    asserts("closures, defaults, globals", "calls = 0\ndef f(x, seen=[]):\n  global calls\n  calls += 1\n  seen.append(x)\n  def inner():\n    nonlocal x\n    x += 1\n    return x\n  return inner(), len(seen), calls", "assert f(1) == (2, 1, 1)\nassert f(5) == (6, 2, 2)"),
    asserts("operators, lengths, contexts", "from contextlib import ExitStack, contextmanager\nclass V:\n  def __init__(s, *x): s.x = x\n  def __matmul__(s, o): return sum(a * b for a, b in zip(s.x, o.x))\n  def __len__(s): return len(s.x)\n  def __getitem__(s, i): return s.x[i]\nlog = []\n@contextmanager\ndef c(n):\n  log.append(n)\n  yield n\n  log.append(-n)\ndef f():\n  with ExitStack() as stack:\n    a = [stack.enter_context(c(n)) for n in (1, 2)]\n  return V(1, 2) @ V(3, 4), len(V(1)), list(V(7, 8)), log", "assert f() == (11, 1, [7, 8], [1, 2, -2, -1])"),
    asserts("pickles and copies in a call", "import copy, pickle\nclass P:\n  def __init__(s, x): s.x = x\n  def __reduce__(s): return P, (s.x + 1,)\ndef f(x): return pickle.loads(pickle.dumps(P(x))).x, copy.deepcopy(P(x)).x", "assert f(1) == (2, 2)"),
    asserts("recursion that it allows itself", "import sys\nsys.setrecursionlimit(50_000)\ndef f(n): return n and 1 + f(n - 1)", "assert f(20_000) == 20_000"),
    asserts("bases that can be hashed", "class H(dict):\n  def __hash__(s): return hash(tuple(sorted(s.items())))\ndef f(): return len({H(a=1): 1, H(a=1): 2}), {H(b=2): 3, 'k': 4}", "assert f()[0] == 1\nassert f()[1]['k'] == 4"),
    asserts("a named tuple with names that are none", "from collections import namedtuple\nP = namedtuple('P', ['a', 'class', 'a'], rename=True)\ndef f(): return P(1, 2, 3)", "assert f() == (1, 2, 3)\nassert f()._1 == 2\nassert f().a == 1"),
    asserts("thousands of names", "for n in range(20_000): globals()[f'x{n}'] = n\nglobals()['no identifier'] = globals()[5] = 1\ndef f(): return x19999", "assert f() == 19999"),
    asserts("tests with a byte-order mark", "def f(x): return x", "\ufeffassert f(1) == 1"),
]  # fmt: skip

BEYOND_THE_SANDBOX = [
    asserts("a class as LeetCode has it", "class Solution:\n  def f(self, x): return x * 2", "assert Solution().f(2) == 4", "harness_error(a value of type 'Solution' cannot leave the program)"),
    asserts("a function's own text", 'def f(x):\n  """Doubles."""\n  return x * 2', "assert f(2) == 4\nassert 'Doubles' in f.__doc__", "harness_error('f' of the program can only be called)"),
    asserts("a function's annotations", "def f(x: int) -> int: return x * 2", "assert f(2) == 4\nassert f.__annotations__['x'] is int", "harness_error('f' of the program can only be called)"),
    asserts("a function's parameters", "def f(x, y): return x * 2", "import inspect\nassert f(2, 0) == 4\nassert len(inspect.signature(f).parameters) == 2", "harness_error('f' of the program can only be called)"),
    asserts("an object that compares itself", "class P:\n  def __init__(s, x): s.x = x\n  def __eq__(s, o): return s.x == o.x\n  __hash__ = None\ndef f(x): return P(x)", "assert f(1) == f(1)", "harness_error(a value of type 'P' *"),
]  # fmt: skip

STARTS_PROCESSES = [
    writes("another program", "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(3)'], capture_output=True, text=True).stdout)", "3", verdict="forbidden(fork)"),
    writes("a shell", "import os\nos.system('true')\nprint(3)", "3", verdict="forbidden(fork)"),
]  # fmt: skip

UNUSUAL: list[Honest] = [*THREADS_AND_SIGNALS, *ENDINGS, *INPUT_AND_OUTPUT, *LOOKS_AT_ITSELF, *LANGUAGE]
