"""The reference's token log-probs, kept by content: never computed twice, never mixed up."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from align.engine import TreeBatch
from align.files import put

logger = logging.getLogger(__name__)


class ReferenceStore:
    """Reference log-probs of whole trees, by the content key of their tokens (`TokenTree.content_key`).

    Valid for one frozen reference. `save` and `load` keep it in a file named for that reference.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def lookup(self, batch: TreeBatch) -> Tensor | None:
        """`[S]` float32 on the batch's device, if every tree of the batch is known."""
        parts = [self._known.get(key) for key in batch.keys]
        if any(part is None for part in parts):
            return None
        values = torch.from_numpy(np.concatenate([p for p in parts if p is not None]))
        return values.to(batch.labels.device, non_blocking=True)

    def add(self, batch: TreeBatch, logps: Tensor) -> None:
        """Keep the token log-probs `[S]` of a batch."""
        values = logps.detach().float().cpu().numpy()
        for key, (start, end) in zip(batch.keys, batch.token_slices, strict=True):
            self._known[key] = values[start:end].copy()

    def items(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        """The entries of the given keys."""
        return {key: self._known[key] for key in keys}

    def update(self, entries: dict[bytes, np.ndarray]) -> None:
        """Take over entries (from another rank)."""
        self._known.update(entries)

    def load(self, path: Path) -> None:
        """Read a saved store, if there is one. The main process reads for all ranks: others may not see its file."""
        found: list[dict[bytes, np.ndarray]] = [{}]
        if PartialState().is_main_process and path.exists():
            try:
                with np.load(path) as saved:
                    parts = np.split(saved["values"], np.cumsum(saved["lengths"])[:-1])
                    found = [dict(zip((bytes(k) for k in saved["keys"]), parts, strict=True))]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # computed and written again
                logger.warning("%s cannot be read (%s): the reference's log-probs are computed again.", path, error)
        broadcast_object_list(found)
        self._known.update(found[0])

    def save(self, path: Path) -> None:
        """Write the store: aside first, then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self._known), dtype=np.uint8).reshape(-1, 16)
        lengths = np.array([len(v) for v in self._known.values()])
        values = np.concatenate([*self._known.values()]) if self._known else np.zeros(0, np.float32)
        scratch = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(scratch, keys=keys, lengths=lengths, values=values)
        put(scratch, path)


def default_cache_dir() -> Path:
    """Where precomputed reference log-probs are kept unless told otherwise."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "align" / "reference"
