"""The Hugging Face hub: looked for once, and told from files that were meant."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from align.errors import nearest

PATIENCE = 5.0  # seconds to wait for the hub's first answer
_FILE_ENDS = (
    ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".txt", ".yaml", ".yml", ".xlsx", ".zip", ".bz2", ".xz",
    ".safetensors", ".gguf", ".bin", ".pt", ".pkl", ".md",
)  # fmt: skip


def is_local(name: str) -> bool:
    """Whether a name means a file or folder of this machine and none on the hub, whether it is there or not.

    >>> is_local("./pairs"), is_local("data/pairs.csv"), is_local("a/b/c"), is_local("allenai/tulu-2.5-prefs"), is_local("owner/set:sub")
    (True, True, True, False, False)
    """
    path = name.partition(":")[0]
    return path.startswith((".", "/", "~")) or path.lower().endswith(_FILE_ENDS) or path.count("/") > 1 or Path(name).exists()


def not_there(name: str) -> str:
    """What is said of a file or folder that does not exist: the nearest name next to it, if there is one."""
    path = Path(name).expanduser()
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)}, which does not exist"
    if not path.parent.is_dir():
        return f"no such file or folder: there is no folder {path.parent}"
    hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()] or ["nothing"])
    return f"no such file or folder: {hint}" if hint.startswith("did you") else "no such file or folder"


@functools.cache
def offline_where_unreachable() -> None:
    """Ask the hub once in the life of a process; where it does not answer, libraries and later processes go by what is cached here.

    Their own look-ups are tried five times over half a minute, with a warning each.
    """
    import httpx
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        httpx.head(huggingface_hub.constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.HTTPError, OSError):
        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        if (datasets := sys.modules.get("datasets")) is not None:
            datasets.config.HF_HUB_OFFLINE = True


def hint(error: BaseException) -> str:
    """A library's error about a name on the hub, with the way out."""
    links, link = [], error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    names = {type(each).__name__ for each in links}
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # which says what is wrong
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if names & {"GatedRepoError"} or "gated repo" in first:
        return "access to it is gated: ask for it on its page on the hub, then log in with `hf auth login`"
    if names & {"RevisionNotFoundError"}:
        return "there is no such revision of it on the hub"
    unreachable = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout"}
    if names & unreachable or first.startswith(("Couldn't reach", "We couldn't connect")):
        return "no such folder here, and the hub cannot be reached (or HF_HUB_OFFLINE is set) and nothing of it is cached: give a path"
    if names & {"RepositoryNotFoundError"}:
        return "no such folder here, and no such name on the hub (a private one takes `hf auth login`)"
    return first
