"""Digests of files and folders: what a stage's key knows its inputs by."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from align.files import DamagedError, files_below, read_json, write_json
from align.machine import usable_cpus
from align.runs.stage import SPECIFICATION

MANIFEST = "manifest.json"
PIECE = 1 << 24  # bytes of a large file that one thread reads and hashes at a time
_IGNORED = {MANIFEST, SPECIFICATION, "log.txt", "training_args.bin"}  # the last holds paths and times, and nothing that a model needs


def digest_of(content: Any) -> str:
    """A short hash of plain data, the same for the same content."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, ensure_ascii=False).encode(), digest_size=12).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder that counts as content, by its path relative to the folder."""
    found = {}
    for path in files_below(folder):
        relative = path.relative_to(folder)
        skipped = path.name in _IGNORED or path.suffix in (".tmp", ".damaged") or path.name.startswith(("progress-", "usage-", "log-", "."))
        if not skipped and relative.parts[0] != "scratch":
            found[relative.as_posix()] = file_digest(path)
    return found


def file_digest(path: Path) -> str:
    """The digest of one file's bytes; of a large one the digest of its pieces' digests, which several threads compute.

    SHA-256, which processors compute themselves: a second of one core for 1.3 GiB.
    """
    with open(path, "rb") as data:
        size = os.fstat(data.fileno()).st_size
        if size <= PIECE:
            return hashlib.sha256(data.read()).hexdigest()[:24]

        def piece(start: int) -> bytes:
            return hashlib.sha256(os.pread(data.fileno(), PIECE, start)).digest()

        with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
            pieces = b"".join(pool.map(piece, range(0, size, PIECE)))
    return hashlib.sha256(pieces).hexdigest()[:24]


def part_digest(outputs: dict[str, str], path: str) -> str | None:
    """The digest of one output (a file, or a folder with all that is in it), from the digests of a stage's files."""
    if path in outputs:
        return outputs[path]
    inside = {name: digest for name, digest in outputs.items() if name.startswith(path + "/")}
    return digest_of(inside) if inside else None


class ExternalDigests:
    """Digests of paths outside the run, remembered by size and time so that a model is not read at every start."""

    def __init__(self, cache: Path) -> None:
        """Args: cache, the JSON file to remember them in; a damaged one is written anew."""
        self._cache = cache
        self._known: dict[str, Any] = {}
        with contextlib.suppress(DamagedError, OSError):
            self._known = read_json(cache, _are_digests) or {}

    def __call__(self, source: str) -> str:
        """The content's digest of a local file or folder; any other source is known by its name."""
        path = Path(source)
        if not path.exists():
            return digest_of(source)
        files = [path] if path.is_file() else [file for file in files_below(path) if file.name not in _IGNORED]
        stamp = digest_of([[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files])
        known = self._known.get(source)
        if known is None or known["stamp"] != stamp:
            content = [[p.relative_to(path).as_posix(), file_digest(p)] for p in files] if path.is_dir() else file_digest(path)
            self._known[source] = {"stamp": stamp, "digest": digest_of(content)}
            with contextlib.suppress(OSError):  # a run that may only be looked at; the digest is computed again the next time
                write_json(self._cache, self._known)
        return str(self._known[source]["digest"])


def _are_digests(content: Any) -> bool:
    values = content.values() if isinstance(content, dict) else [None]
    return all(isinstance(one, dict) and all(isinstance(one.get(name), str) for name in ("stamp", "digest")) for one in values)
