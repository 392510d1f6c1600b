"""What is given to a trainer as an object, in the form that a recipe has for it: names, files, plain data."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from align.errors import AlignError
from align.files import put, remove
from align.trees import PreferenceTree, to_record, write_jsonl

_LORA = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "target_modules"}


def named(part: Any, argument: str) -> str:
    """The name under which other processes find a part: itself where it is a name, "module:name" of a class or function.

    Its module's folder joins PYTHONPATH, so that the processes of the stages find it.

    Raises:
        AlignError: it cannot be imported: it stands in the script that runs, or within a function.
    """
    if isinstance(part, str):
        return part
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if module is None or name is None:
        raise AlignError(f"{argument} is {part!r}: expected a name, or a class or function that can be imported, not one of its instances")
    if module == "__main__" or "." in name or "<" in name:
        where = "the script that runs" if module == "__main__" else "a function or class"
        raise AlignError(f"{argument}: {name} stands within {where}: put it into a module of its own, which other processes can import")
    if getattr(importlib.import_module(module), name, None) is not part:
        raise AlignError(f"{argument}: {module}.{name} is something else than what was given")
    _findable(module)
    return f"{module}:{name}"


def _findable(module: str) -> None:
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return
    folder = str(Path(file).resolve().parents[module.count(".") + (Path(file).name == "__init__.py")])
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), folder])


class StoredData:
    """Data sets and models given as objects, as files of the run's folder that its stages read."""

    def __init__(self, folder: Path) -> None:
        """Args: of the run."""
        self._folder = folder / "given"
        self._writes: list[Any] = []

    def source(self, data: Any, name: str) -> str | None:
        """Where stages read data: itself where it is a name or path, else the file that `write` will make.

        Args:
            data: None, a name or path, a `datasets.Dataset`, or a list of records or of `PreferenceTree`.
            name: of the file.

        Raises:
            AlignError: it is nothing of that.
        """
        if data is None or isinstance(data, str | os.PathLike):
            return _as_text(data)
        if not isinstance(data, Dataset | list | tuple):
            expected = "expected a name, a path, a datasets.Dataset, or a list of records"
            raise AlignError(f"{name} is {type(data).__name__}: {expected}")
        path = self._folder / f"{name}.jsonl"
        self._writes.append(lambda: write_jsonl(_records(data), path))
        return str(path)

    def model(self, model: Any, tokenizer: Any, name: str) -> str | None:
        """Where stages load a model: itself where it is a name or path, else the folder that `write` will make.

        Raises:
            AlignError: a model without its tokenizer.
        """
        if model is None or isinstance(model, str | os.PathLike):
            return _as_text(model)
        if tokenizer is None:
            raise AlignError(f"{name} is a model: give its tokenizer, too, as processing_class")
        folder = self._folder / name

        def write() -> None:
            scratch = self._folder / f"{name}.tmp"
            remove(scratch)  # of an attempt that was ended
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            put(scratch, folder)  # known by its content: stages that had this model stay done

        self._writes.append(write)
        return str(folder)

    def write(self) -> None:
        """Make the files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for write in self._writes:
            write()


def _as_text(name: str | os.PathLike[str] | None) -> str | None:
    return None if name is None else os.fspath(name)


def _records(data: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    return (to_record(record) if isinstance(record, PreferenceTree) else record for record in data)


def lora_section(config: Any) -> dict[str, Any] | None:
    """The recipe's `model.lora` of a `peft.LoraConfig`.

    Raises:
        AlignError: it is another kind of adapter, or sets what a recipe cannot say.
    """
    if config is None:
        return None
    from peft import LoraConfig

    if type(config) is not LoraConfig:
        raise AlignError(f"peft_config is {type(config).__name__}: rounds train LoRA adapters, by a peft.LoraConfig")
    plain, given = LoraConfig().to_dict(), config.to_dict()
    for name, value in given.items():
        if value != plain[name] and name not in _LORA and name != "task_type":
            raise AlignError(f"peft_config.{name} is {value!r}: of LoraConfig, rounds know {', '.join(_LORA)}")
    section = {key: given[name] for name, key in _LORA.items() if given[name] is not None}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in section.items()}
