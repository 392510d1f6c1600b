"""Digests of files and folders: what a stage's key knows its inputs by."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from align.files import DamagedError, read_json, write_json
from align.runs.stage import SPECIFICATION

MANIFEST = "manifest.json"
_IGNORED = {MANIFEST, SPECIFICATION, "log.txt", "training_args.bin"}  # the last holds paths and times, and nothing that a model needs


def digest_of(content: Any) -> str:
    """A short hash of plain data, the same for the same content."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, ensure_ascii=False).encode(), digest_size=12).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder that counts as content, by its path relative to the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        skipped = path.name in _IGNORED or path.suffix in (".tmp", ".damaged") or path.name.startswith(("progress-", "usage-", "."))
        if path.is_file() and not skipped and relative.parts[0] != "scratch":
            found[relative.as_posix()] = file_digest(path)
    return found


def file_digest(path: Path) -> str:
    """The digest of one file's bytes."""
    digest = hashlib.blake2b(digest_size=12)
    with open(path, "rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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
        with contextlib.suppress(DamagedError):
            self._known = read_json(cache, _are_digests) or {}

    def __call__(self, source: str) -> str:
        """The content's digest of a local file or folder; any other source is known by its name."""
        path = Path(source)
        if not path.exists():
            return digest_of(source)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name not in _IGNORED)
        stamp = digest_of([[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files])
        known = self._known.get(source)
        if known is None or known["stamp"] != stamp:
            content = [[p.relative_to(path).as_posix(), file_digest(p)] for p in files] if path.is_dir() else file_digest(path)
            self._known[source] = {"stamp": stamp, "digest": digest_of(content)}
            write_json(self._cache, self._known)
        return str(self._known[source]["digest"])


def _are_digests(content: Any) -> bool:
    values = content.values() if isinstance(content, dict) else [None]
    return all(isinstance(one, dict) and all(isinstance(one.get(name), str) for name in ("stamp", "digest")) for one in values)
