"""Checkpoints: which are whole, and whether a training as it is spread out now can go on from one."""

from __future__ import annotations

import json
import logging
import struct
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.files import DamagedError, files_below, files_in, read_json, write_json

logger = logging.getLogger(__name__)
RECORD = "distribution.json"
STATE = "trainer_state.json"


@dataclass(frozen=True)
class Distribution:
    """How a training is spread out.

    Attributes:
        processes: that hold a part of it.
        sharding: "none", "zero1", "zero2", "zero3" or "fsdp".
        step_trees: trees an optimizer step.
        step_rows: in its place where rows are filled to a token budget: rows a step.
    """

    processes: int
    sharding: str
    step_trees: int | None = None
    step_rows: int | None = None


def begin(checkpoint: Path, now: Distribution) -> None:
    """Write down, before anything else is written, what the checkpoint is going to consist of."""
    write_json(checkpoint / RECORD, asdict(now))


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used; None where it was written to its end and every file in it is whole."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not (checkpoint / STATE).exists():
        return f"it was not written to its end ({STATE}, the last file, is missing)"
    for path in files_below(checkpoint):
        if not _is_whole(path):
            return f"{path.relative_to(checkpoint)} is cut off"
    try:
        then = read_record(checkpoint)
    except DamagedError as error:
        return str(error)
    if missing := _missing_optimizer(checkpoint, then):
        return missing
    if then is None:
        return None
    states = len(list(checkpoint.glob("rng_state*.pth")))
    if states < then.processes:
        return f"only {states} of its {then.processes} processes have written their part"
    if then.sharding.startswith("zero"):
        latest = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip() if (checkpoint / "latest").exists() else None
        parts = len(list(latest.glob("*optim_states.pt"))) if latest else 0
        if parts < then.processes:
            return f"only {parts} of its {then.processes} processes have written their optimizer states"
    return None


def _missing_optimizer(checkpoint: Path, record: Distribution | None) -> str | None:
    """What of optimizer and schedule is not there; DeepSpeed's, which lie elsewhere, are counted by `fault`."""
    if record is not None and record.sharding.startswith("zero") and (checkpoint / "latest").exists():
        return None
    optimizer = any(path.name.startswith("optimizer") for path in checkpoint.iterdir())  # .pt, .bin, or FSDP's folder
    if not optimizer and not any(checkpoint.glob("rng_state*.pth")):
        return "it holds the model alone (training.save_only_model): the states of optimizer, schedule and random numbers are not there"
    missing = [name for name, there in (("optimizer.pt", optimizer), ("scheduler.pt", (checkpoint / "scheduler.pt").exists())) if not there]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, so its optimizer would begin anew" if missing else None


def _holds_the_model_alone(checkpoint: Path) -> bool:
    """Whether a checkpoint lacks no more than the states of optimizer and schedule."""
    try:
        missing = _missing_optimizer(checkpoint, read_record(checkpoint))
    except DamagedError:
        return False
    return missing is not None and missing == fault(checkpoint)


def newest_to_resume(folder: Path) -> Path | None:
    """The newest whole checkpoint below a folder; None where there is nothing to go on from, so that a training begins anew.

    Raises:
        AlignError: there are trained models, but none can be gone on from: a training that began anew would overwrite them.
    """
    if (path := last_whole(folder)) is not None:
        return path
    for path in _newest_first(folder):
        if all(_is_whole(file) for file in files_below(path)) and (path / STATE).exists() and _holds_the_model_alone(path):
            raise AlignError(f"checkpoint '{path}': {fault(path)}. {_from_its_model(path)}; or move the checkpoints away to begin anew")
    return None


def _from_its_model(checkpoint: Path) -> str:
    """What one can do with a checkpoint without optimizer."""
    return (
        f"No training goes on from it, but a new one can begin with its model: model.name_or_path={checkpoint}, with model.reference set "
        "to the model that the training began with, and another training.output_dir"
    )


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint below a folder that is whole; says which newer ones are passed over, and why."""
    for path in _newest_first(folder):
        why = fault(path)
        if why is None:
            return path
        logger.warning("%s is passed over: %s.", path, why)
    return None


def read_record(checkpoint: Path) -> Distribution | None:
    """How the training was spread out that wrote a checkpoint; None where nobody wrote it down (trl's own checkpoints).

    Raises:
        DamagedError: the file does not hold what was written to it.
    """
    content = read_json(checkpoint / RECORD, _is_distribution)
    return Distribution(**content) if content is not None else None


def _is_distribution(content: Any) -> bool:
    types: dict[str, Any] = {"processes": int, "sharding": str, "step_trees": (int, type(None)), "step_rows": (int, type(None))}
    return isinstance(content, dict) and content.keys() == types.keys() and all(isinstance(content[name], types[name]) for name in types)


def check_resume(checkpoint: Path, now: Distribution) -> None:
    """See that a training can go on from a checkpoint, before anything is loaded.

    Raises:
        AlignError: it is not whole, or it was written by a training spread out in a way that this one cannot take up.
    """
    if why := fault(checkpoint):
        other = last_whole(checkpoint.parent)
        hint = f"the last whole one is {other}" if other else "there is no whole one beside it"
        model_alone = checkpoint.is_dir() and _holds_the_model_alone(checkpoint)
        raise AlignError(f"checkpoint '{checkpoint}': {why}; {hint}" + (f". {_from_its_model(checkpoint)}" if model_alone else ""))
    then = read_record(checkpoint)
    if then is None:
        return
    where = f"checkpoint '{checkpoint}' was written"
    if then.sharding != now.sharding:
        raise AlignError(
            f"{where} under {_named(then.sharding)}, this training is under {_named(now.sharding)}: take the same configuration"
        )
    if then.processes != now.processes and then.sharding.startswith("zero"):
        raise AlignError(
            f"{where} by {then.processes} processes, this training has {now.processes}: DeepSpeed's optimizer states load into as many "
            f"as wrote them. Start {then.processes}, or start anew from the model in the checkpoint (model.name_or_path={checkpoint})"
        )
    if (then.step_trees, then.step_rows) != (now.step_trees, now.step_rows):
        raise AlignError(
            f"{where} by a training of {_step(then)}, this one does {_step(now)}, so it could not go on with "
            "the data where the other stopped: set training.global_batch_size to what it was"
        )


def _step(spread: Distribution) -> str:
    return f"{spread.step_trees} trees a step" if spread.step_rows is None else f"{spread.step_rows} rows a step, filled to a token budget"


def _named(sharding: str) -> str:
    return {"none": "plain data parallelism", "fsdp": "FSDP"}.get(sharding, f"ZeRO-{sharding[-1]}")


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in files_in(folder, "checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def _is_whole(path: Path) -> bool:
    """Whether a file is there to its end, as far as its format tells."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(path) or path.name == "training_args.bin"
        elif path.suffix == ".safetensors":
            return _safetensors_size(path) == path.stat().st_size
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError, struct.error):  # no JSON, or another content
        return False
    return True


def _safetensors_size(path: Path) -> int:
    """Bytes that the header of a safetensors file promises."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends, default=0)
