"""The last model of a run, put where others can load it: into a folder, or a repository on the hub."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from align import hub, plans
from align.errors import AlignError
from align.files import writing

HUB = "hub:"
FILES = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json", "adapter_model.bin", "config.json",
    "generation_config.json", "adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "chat_template*", "preprocessor_config.json", "processor_config.json", "*.py", "README.md",
)  # fmt: skip
"""What a model's folder holds that belongs to the model: weights, configuration, tokenizer, code of its own, card."""
_IS_MODEL = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        folder: of the whole model, or of an adapter where there is nothing else.
        adapter: of the adapter that was trained, where one was.
        trust_remote_code: whether the run lets the model bring code of its own.
    """

    folder: Path
    adapter: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Exported:
    """What was exported: the folder it came from, how many files and bytes, and an adapter's base, without which it is of no use."""

    source: Path
    files: int
    size: int
    base: str | None = None


def trained_model(path: Path) -> Trained:
    """The last model of a run, or the model that lies in a folder.

    Args:
        path: the folder of a run, one that holds a single run, or one with a model or an adapter in it.

    Raises:
        AlignError: there is none, or there are several runs.
    """
    if any((path / name).is_file() for name in _IS_MODEL):
        return Trained(path, path if (path / "adapter_config.json").is_file() else None)
    if not path.is_dir():
        raise AlignError(f"{path}: {hub.not_there(str(path))}")
    folders = plans.run_folders(path)
    if len(folders) > 1:
        names = ", ".join(str(folder) for folder in folders[:8])
        raise AlignError(f"{path}: there are {len(folders)} runs in it: name one of {names}")
    run = plans.load_run(folders[0])
    model = Path(plans.last_training(run)["model"])
    adapter = model.parent / "adapter"
    return Trained(model, adapter if adapter.is_dir() else None, run.recipe.model.trust_remote_code)


def export(source: Path, target: str, *, merge: bool) -> Exported:
    """Put a model where others can load it.

    Args:
        source: as for `trained_model`.
        target: a folder that is not there yet or is empty, or "hub:OWNER/NAME", a repository that is made (private) if there is none.
        merge: of an adapter, the whole model that it makes with its base. Without it, an adapter is exported as it is.

    Returns:
        What was exported.

    Raises:
        AlignError: there is no model, something lies at the target, there is nothing to merge, or the hub does not take it.
    """
    found = trained_model(source)
    if not target.startswith(HUB):
        _check_free(Path(target))
    elif target.count("/") > 1 or not target.removeprefix(HUB).strip("/"):
        raise AlignError(f"--to {target}: expected hub:OWNER/NAME")
    if merge and found.adapter is None:
        raise AlignError(f"--merge: {found.folder} is no adapter, but a whole model: leave --merge out")
    if merge and found.folder == found.adapter:
        with tempfile.TemporaryDirectory(dir=_parent(target), prefix=".merged-") as scratch:
            return _handed_on(_merged(found, Path(scratch)), target, found.folder)
    return _handed_on(found.folder if merge else (found.adapter or found.folder), target)


def _merged(found: Trained, folder: Path) -> Path:
    """Write what an adapter and its base make together, with its tokenizer, into a folder."""
    from align.models import load_model, load_tokenizer

    model = load_model(str(found.folder), trust_remote_code=found.trust_remote_code, key="align export")
    model.save_pretrained(folder)
    load_tokenizer(str(found.folder), trust_remote_code=found.trust_remote_code, key="align export").save_pretrained(folder)
    return folder


def _handed_on(folder: Path, target: str, named: Path | None = None) -> Exported:
    """Copy a model's files into the target; `named` is what is said to be their source."""
    from align.models import base_of

    files = [Path(entry.path) for entry in os.scandir(folder) if entry.is_file() and _belongs(entry.name)]
    size = sum(file.stat().st_size for file in files)
    if target.startswith(HUB):
        _upload(folder, target.removeprefix(HUB))
    else:
        with writing(Path(target)) as scratch:
            scratch.mkdir()
            for file in files:
                shutil.copyfile(file, scratch / file.name)
    base = base_of(str(folder)) if (folder / "adapter_config.json").is_file() else None
    return Exported(named or folder, len(files), size, base)


def _belongs(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def _check_free(target: Path) -> None:
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise AlignError(f"--to {target}: something lies there already: name a folder that is new or empty")


def _parent(target: str) -> Path | None:
    """The folder that the target lies in, so that a merged model is written on its disk; none for the hub."""
    if target.startswith(HUB):
        return None
    Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
    return Path(target).absolute().parent


def _upload(folder: Path, name: str) -> None:
    """Make a repository on the hub, private if it is new, and put the model's files into it in one commit."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = huggingface_hub.HfApi()
    try:
        identity = api.create_repo(name, private=True, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=identity, folder_path=folder, allow_patterns=list(FILES), ignore_patterns=["*/*"], commit_message="A trained model"
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        refused = isinstance(error, LocalTokenNotFoundError) or getattr(getattr(error, "response", None), "status_code", None) == 401
        told = "log in with `hf auth login` first" if refused else " ".join(str(error).split())
        raise AlignError(f"--to hub:{name}: {told}") from error
    except (OfflineModeIsEnabled, httpx.HTTPError, ConnectionError) as error:
        raise AlignError(f"--to hub:{name}: the hub cannot be reached (or HF_HUB_OFFLINE is set): export to a folder") from error
