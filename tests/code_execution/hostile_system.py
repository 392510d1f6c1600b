"""Programs that turn on the processes around them, on the files of the host, and on the programs after them. See hostile.py."""

from __future__ import annotations

from hostile import Hostile, _in_call

OPEN = "@open@"
"""Stands for a file of the host that everybody may write to, in a folder that a program may read."""

_RELATIVES = """
def up(pid):
    try: return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
    except OSError: return os.getppid()
parent = os.getppid()
grandparent = up(parent)
relatives = (parent, grandparent, up(grandparent))
"""


def _to_relatives(body: str, imports: str = "") -> str:
    """A program that does something to the three processes above its own; each call may fail."""
    lines = "\n".join(f"        {line}" for line in body.strip("\n").splitlines())
    loop = f"for pid in relatives:\n    try:\n{lines}\n    except OSError as error: failed.append(error)"
    return _in_call(f"{imports}\nfailed = []\n{_RELATIVES}\n{loop}\nif len(failed) == 3: raise failed[0]\nreturn 0")


def _to_library(call: str) -> str:
    """A program that calls the C library for each of the three processes above its own."""
    return _to_relatives(
        f"if L.{call} < 0: failed.append(OSError(ctypes.get_errno(), ''))", "import ctypes\nL = ctypes.CDLL(None, use_errno=True)"
    )


STALLS = [
    Hostile("stops its parents", _to_relatives("os.kill(pid, 19)"), "forbidden(kill)", "[wt]*"),
    Hostile("stops its group", _in_call("os.killpg(0, 19)\nreturn 0"), "forbidden(kill)", "[wt]*"),
    Hostile("stops itself at the top", "import os\nos.kill(os.getpid(), 19)", "timeout"),
    Hostile("stops itself by its thread", "import ctypes\ndef f(x):\n  L = ctypes.CDLL(None)\n  L.syscall(234, L.getpid(), L.gettid(), 19)", "timeout"),
    Hostile("blocks every signal", "import signal\nsignal.pthread_sigmask(0, range(1, 65))\ndef f(x):\n  while True: pass", "timeout"),
    Hostile("a child of its parent", "import ctypes, time\ndef f(x):\n  if ctypes.CDLL(None).syscall(56, 0x8011, 0, 0, 0, 0) == 0: time.sleep(1000)\n  return 0", "forbidden(fork)", "wrong_answer"),
    Hostile("waits for a child that waits", _in_call("r, w = os.pipe()\nif os.fork() == 0: os.read(r, 1)\nos.wait()"), "forbidden(fork)", "timeout"),
    Hostile("a child keeps the channel", _in_call("import time\nif os.fork() == 0: time.sleep(1000)\nos._exit(0)"), "forbidden(fork)", "crashed(exit 0)"),
    Hostile("signals itself without end", "import os, signal\nsignal.signal(10, lambda *a: None)\ndef f(x):\n  while True: os.kill(os.getpid(), 10)", "timeout"),
    Hostile("a timer of a microsecond", "import signal\nsignal.signal(14, lambda *a: None)\ndef f(x):\n  signal.setitimer(0, 1e-6, 1e-6)\n  while True: pass", "timeout"),
    Hostile("threads that start threads", "import threading\ndef g():\n  threading.Thread(target=g).start()\ndef f(x):\n  g()\n  while True: pass", "*"),
    Hostile("outlives its parent", _in_call("import ctypes, time\nctypes.CDLL(None).prctl(1, 0)\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass\ntime.sleep(1000)"), "forbidden(kill)", "crashed(server)"),
]  # fmt: skip

EMPTIES = [
    Hostile("truncates a file of the host", _in_call(f"os.truncate('{OPEN}', 0)"), "exception(*", "*"),
    Hostile("truncates it in C", _in_call(f"import ctypes\nreturn ctypes.CDLL(None).truncate(b'{OPEN}', 0)"), "wrong_answer", "*"),
    Hostile("truncates it by number", _in_call(f"import ctypes\nreturn ctypes.CDLL(None).syscall(76, b'{OPEN}', 0)"), "wrong_answer", "*"),
    Hostile("opens it to read, and empties it", _in_call(f"os.open('{OPEN}', os.O_RDONLY | os.O_TRUNC)"), "exception(*", "*"),
    Hostile("opens it for nothing, and empties it", _in_call(f"os.open('{OPEN}', 3 | os.O_TRUNC)"), "exception(*", "*"),
    Hostile("opens it for all, and empties it", _in_call(f"open('{OPEN}', 'w')"), "exception(*", "*"),
    Hostile("creates it anew", _in_call(f"import ctypes\nreturn ctypes.CDLL(None).syscall(85, b'{OPEN}', 0o666)"), "wrong_answer", "*"),
    Hostile("opens it in the second way", _in_call(f"import ctypes, struct\nhow = struct.pack('QQQ', os.O_TRUNC, 0, 0)\nreturn ctypes.CDLL(None).syscall(437, -100, b'{OPEN}', how, 24)"), "wrong_answer", "*"),
    Hostile("truncates it through a link", _in_call(f"os.symlink('{OPEN}', 'link')\nos.truncate('link', 0)"), "exception(*", "*"),
    Hostile("truncates it from its folder", _in_call(f"folder, name = os.path.split('{OPEN}')\nfd = os.open(folder, os.O_RDONLY)\nos.close(os.open(name, os.O_TRUNC, dir_fd=fd))"), "exception(*", "*"),
    Hostile("opens it twice", _in_call(f"fd = os.open('{OPEN}', os.O_RDONLY)\nos.ftruncate(fd, 0)"), "exception(*", "*"),
    Hostile("punches a hole into it", _in_call(f"import ctypes\nfd = os.open('{OPEN}', os.O_RDONLY)\nreturn ctypes.CDLL(None).fallocate(fd, 3, 0, 100)"), "[ew]*", "*"),
]  # fmt: skip

POISONS = [
    Hostile("memory of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_AS, (1 << 27, 1 << 27))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("descriptors of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, 4))", "import resource"), "exception(*", "[wc]*"),
    Hostile("time of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("files of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("processes of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("stack of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_STACK, (1 << 16, 1 << 16))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("data of its parents", _to_relatives("resource.prlimit(pid, resource.RLIMIT_DATA, (1 << 20, 1 << 20))", "import resource"), "exception(*", "wrong_answer"),
    Hostile("priority of its parents", _to_relatives("os.setpriority(os.PRIO_PROCESS, pid, 19)"), "exception(*", "wrong_answer"),
    Hostile("priority of its user", _in_call("os.setpriority(os.PRIO_USER, 0, 19)\nreturn 0"), "exception(*", "wrong_answer"),
    Hostile("cores of its parents", _to_relatives("os.sched_setaffinity(pid, {c for c in range(os.cpu_count()) if c not in os.sched_getaffinity(0)} or {0})"), "exception(*", "wrong_answer"),
    Hostile("scheduler of its parents", _to_relatives("os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))"), "exception(*", "wrong_answer"),
    Hostile("traces its parents", _to_library("ptrace(16, pid, 0, 0)"), "forbidden(ptrace)", "exception(PermissionError)"),
    Hostile("writes to its parents' memory", _to_library("process_vm_writev(pid, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0)"), "forbidden(process_vm_writev)", "[ew]*"),
    Hostile("opens its parents' memory", _to_relatives("open(f'/proc/{pid}/mem', 'r+b')"), "exception(*", "exception(PermissionError)"),
    Hostile("offers its parents to the killer", _to_relatives("open(f'/proc/{pid}/oom_score_adj', 'w').write('1000')"), "exception(*", "*"),
    Hostile("takes the keys away", _in_call("import ctypes\nL = ctypes.CDLL(None)\nL.syscall(250, 3, -3)\nreturn 0"), "forbidden(keyctl)", "wrong_answer"),
    Hostile("status 70", "import os\ndef f(x): os._exit(70)", "crashed(exit 70)"),
    Hostile("status 71 at the top", "import os\nos._exit(71)", "crashed(exit 71)"),
    Hostile("status 72", "import os\ndef f(x): os._exit(72)", "crashed(exit 72)"),
    Hostile("status 128 and a signal", "import os\ndef f(x): os._exit(128 + 27)", "crashed(exit 155)"),
    Hostile("says that it was never started", _in_call("for fd in range(4, 256):\n  try: os.write(fd, bytes(8))\n  except OSError: pass\nos._exit(1)"), "crashed(exit 1)"),
    Hostile("says that it has no memory", _in_call("import inside.stopping\ninside.stopping.stop('memory')"), "memory"),
    Hostile("stops for no reason", _in_call("import struct\nfrom inside.codec import encode\nd = encode(('stopped', 'pass'))\nos.write(3, struct.pack('>I', len(d)) + d)"), "forbidden(channel)"),
    Hostile("its own folder removed", "import os\nHERE = os.getcwd()\nos.rmdir(HERE)\ndef f(x): return 0", "exception(*", "*"),
    Hostile("its own folder closed", _in_call("os.chmod('.', 0)\nreturn 0"), "exception(*", "wrong_answer"),
    Hostile("a link in place of its folder", "import os\nHERE = os.getcwd()\nos.rename(HERE, HERE + '2')\nos.symlink('/usr', HERE)\ndef f(x): return 0", "exception(*", "*"),
    Hostile("a full folder", _in_call("for n in range(900):\n  with open(str(n), 'wb') as file: file.write(b'x' * 16000)\nreturn 0"), "*"),
]  # fmt: skip

_IPC = "import ctypes, os, time\nL = ctypes.CDLL(None)\n"
LEAVES = [
    Hostile("shared memory of System V", f"{_IPC}def f(x):\n  L.shmget(0, 4096, 0o1666)\n  return 0", "wrong_answer"),
    Hostile("shared memory that is in use", f"{_IPC}L.shmat.restype = ctypes.c_void_p\ndef f(x):\n  L.shmat(L.shmget(0x414c, 4096, 0o1666), None, 0)\n  return 0", "wrong_answer"),
    Hostile("semaphores of System V", f"{_IPC}def f(x):\n  L.semget(0x414c, 4, 0o1666)\n  return 0", "wrong_answer"),
    Hostile("a queue of System V", f"{_IPC}def f(x):\n  q = L.msgget(0x414c, 0o1666)\n  L.msgsnd(q, ctypes.create_string_buffer(b'x' * 64), 8, 0)\n  return 0", "wrong_answer"),
    Hostile("a hundred of each", f"{_IPC}def f(x):\n  for _ in range(100): L.shmget(0, 4096, 0o1666), L.semget(0, 1, 0o1666), L.msgget(0, 0o1666)\n  return 0", "wrong_answer"),
    Hostile("a queue of POSIX", f"{_IPC}def f(x):\n  return L.mq_open(b'/align-was-here', os.O_CREAT | os.O_RDWR, 0o666, None)", "wrong_answer"),
    Hostile("shared memory of POSIX", _in_call("from _posixshmem import shm_open\nos.write(shm_open('/align-was-here', os.O_CREAT | os.O_RDWR, 0o666), b'x')\nreturn 0"), "exception(*", "[ew]*"),
    Hostile("an object made by a child", f"{_IPC}def f(x):\n  if os.fork() == 0:\n    L.shmget(0, 4096, 0o1666)\n    os._exit(0)\n  os.wait()\n  return 0", "forbidden(fork)", "wrong_answer"),
    Hostile("an object given away", f"{_IPC}def f(x):\n  n = L.shmget(0, 4096, 0o1666)\n  d = ctypes.create_string_buffer(256)\n  L.shmctl(n, 2, d)\n  ctypes.c_uint.from_buffer(d, 4).value = 0\n  L.shmctl(n, 1, d)\n  return 0", "wrong_answer"),
    Hostile("daemons of daemons", _in_call("for _ in range(3):\n  if os.fork() == 0:\n    os.setsid()\n    for _ in range(3):\n      if os.fork() == 0: break\n    import time\n    time.sleep(1000)\nreturn 0"), "forbidden(fork)", "*"),
    Hostile("a daemon that makes objects", f"{_IPC}def f(x):\n  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n      while True: L.semget(0, 1, 0o1666)\n    os._exit(0)\n  return 0", "forbidden(fork)", "*"),
    Hostile("a daemon that renews itself", _in_call("if os.fork() == 0:\n  while True:\n    if os.fork(): os._exit(0)\nreturn 0"), "forbidden(fork)", "*"),
]  # fmt: skip

SYSTEM = [*STALLS, *EMPTIES, *POISONS, *LEAVES]
