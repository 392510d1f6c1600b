"""Errors that nobody foresaw: what a user can do about a library's, and how a fault of ours is told and kept."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
import traceback
from pathlib import Path

from align.errors import AlignError, in_words, of_the_system
from align.imports import ROOT
from align.secrets import masked

_OURS = tuple(f"{ROOT / package}{os.sep}" for package in ("align", "data_pipelines", "eval"))
_PIP = {
    "vllm": "'align-preferences[vllm]'", "deepspeed": "'align-preferences[deepspeed]'", "bitsandbytes": "'align-preferences[qlora]'",
    "flash_attn": "flash-attn --no-build-isolation", "sklearn": "'align-preferences[eval]'", "math_verify": "'align-preferences[eval]'",
    "lm_eval": "'align-preferences[eval]'",
}  # fmt: skip
"""What pip installs for a module; of others, a package of the module's name."""
_NOT_REACHED = ("ConnectError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ProxyError")
_HUB = ("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "HfHubHTTPError")
_REFUSE = ("transformers", "trl", "peft", "accelerate", "deepspeed", f"torch{os.sep}_dynamo")
LONGEST = 300  # characters of a library's own words


def sentence_of(error: BaseException) -> str | None:
    """What a user can do about an error; None where it is a fault of ours.

    >>> sentence_of(ModuleNotFoundError("No module named 'flash_attn'", name="flash_attn"))
    "it needs 'flash_attn', which is not installed here: pip install flash-attn --no-build-isolation"
    >>> sentence_of(KeyError("beta"))
    """
    if isinstance(error, AlignError):
        return str(error)
    if (system := of_the_system(error)) is not None:
        return in_words(system)
    if (own := _own_part(error)) is not None:
        return own
    sentences = [_of_a_library(link) for link in _links(error)]
    return next(filter(None, sentences), None) or _refusal(error)


def fault_of_ours(error: BaseException, log: Path | None) -> str:
    """The sentence about an error that is none of the user's.

    Args:
        error: what was raised.
        log: the file that holds its traceback; None where none could be written.
    """
    where = f"the traceback is in {log}: please send it with what you did" if log is not None else "`--traceback` shows where"
    return f"a fault of ours: {shortened(error)}; {where}"


def kept(error: BaseException) -> Path | None:
    """Write an error's traceback to a file of its own in the folder for temporary files; None where that cannot be."""
    text = masked("".join(traceback.format_exception(error)))
    try:
        descriptor, name = tempfile.mkstemp(prefix="align-fault-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{' '.join(sys.argv)}\n{text}")
    except OSError:
        return None
    return Path(name)


def shortened(error: BaseException) -> str:
    """An error's type and the first line of what it says.

    >>> shortened(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = said if len(said) <= LONGEST else said[:LONGEST] + " …"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _links(error: BaseException) -> list[BaseException]:
    """An error and those that it came from."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return found


def _of_a_library(error: BaseException) -> str | None:
    name, text = type(error).__name__, str(error)
    package = type(error).__module__.partition(".")[0]
    if name == "OutOfMemoryError" or "CUDA out of memory" in text:
        return (
            "the GPU's memory is full: lower training.per_device_train_batch_size, training.max_length or rollouts.batch, or spread the "
            "model over GPUs (resources.accelerate=zero3)"
        )
    if isinstance(error, MemoryError):
        return "the machine's memory is full: use a smaller model, batch or data set, or a machine with more memory"
    if isinstance(error, ImportError):
        return _missing_package(error)
    if package == "jinja2":
        return f"the chat template fails ({shortened(error)}): mend it, or give another in model.chat_template"
    if package == "wandb":
        return f"wandb: {shortened(error)}: run `wandb login`, set WANDB_MODE=offline, or training.report_to=none"
    if name in _NOT_REACHED:
        return f"the network cannot be reached ({shortened(error)}): give local folders and files, or run where it can"
    if name in _HUB:
        return f"the hub does not give it ({shortened(error)}): look at the name, and log in with `hf auth login` where it is gated"
    if "Found no NVIDIA driver" in text or "No CUDA GPUs are available" in text or "not compiled with CUDA" in text:
        return f"there is no GPU that torch can use here ({shortened(error)}): set training.use_cpu=true, or run where there is one"
    return None


def _missing_package(error: ImportError) -> str | None:
    module = (error.name or "").partition(".")[0]
    if not module or module in ("align", "data_pipelines", "eval"):
        return None
    if isinstance(error, ModuleNotFoundError):
        return f"it needs '{module}', which is not installed here: pip install {_PIP.get(module, module)}"
    return f"'{module}' does not fit the other packages here ({shortened(error)}): install the versions that align asks for"


def _refusal(error: BaseException) -> str | None:
    """What a library of the training says that it cannot do: an error that it raises itself about what the recipe asks for."""
    stack = traceback.extract_tb(error.__traceback__)
    if not stack or not isinstance(error, (ValueError, RuntimeError, ImportError, NotImplementedError)):
        return None
    package = next((name for name in _REFUSE if f"{os.sep}{name}{os.sep}" in stack[-1].filename), None)
    if package is None or not (stack[-1].line or "").startswith("raise"):
        return None
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST else said[:LONGEST] + " …"
    return f"{package.split(os.sep)[0]} refuses what the recipe asks for: {said} (`--traceback` shows where)"


def _own_part(error: BaseException) -> str | None:
    """A sentence about an error that a file of the user's own raised or led to; None where no such file takes part after ours."""
    stack = traceback.extract_tb(error.__traceback__)
    ours = [number for number, frame in enumerate(stack) if frame.filename.startswith(_OURS)]
    after = stack[ours[-1] + 1 :] if ours else []
    own = [frame for frame in after if _is_users(frame.filename)]
    return f"{own[-1].filename} line {own[-1].lineno}: {shortened(error)}" if own else None


def _is_users(file: str) -> bool:
    path = Path(file)
    if not path.is_absolute() or not path.is_file() or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    libraries |= {*site.getsitepackages(), site.getusersitepackages()}
    return not any(path.is_relative_to(library) or path.resolve().is_relative_to(Path(library).resolve()) for library in libraries)
