"""Preferences from one form to another: trees, pairs (JSONL, Parquet, CSV, TSV), and LLaMA-Factory's."""

from __future__ import annotations

import csv
import enum
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.files import write_json, writing
from align.trees import PreferenceTree, UnusableRecords, as_messages, locate_trees, pairs_from_tree, write_pairs, write_trees

SHEETS = {".csv": ",", ".tsv": "\t"}


class Form(enum.Enum):
    """What is written."""

    TREES = "trees"
    PAIRS = "pairs"
    LLAMA_FACTORY = "llama-factory"


ENDS = {Form.TREES: (".jsonl", ".parquet"), Form.PAIRS: (".jsonl", ".parquet", *SHEETS), Form.LLAMA_FACTORY: (".json",)}
"""The ends of the names of files that a form is written to."""


@dataclass
class Converted:
    """What came of a conversion.

    Attributes:
        trees: that were read.
        records: that were written.
        unusable: records that could not be read, which are kept aside.
        lost: what the form has no place for → in how many trees.
        further: files that were written besides.
    """

    trees: int = 0
    records: int = 0
    unusable: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    further: list[Path] = field(default_factory=list)


def form_for(target: Path, named: str | None) -> Form:
    """The form to write: the named one, else LLaMA-Factory's for .json and pairs for the others.

    Raises:
        AlignError: the file's name has another end than the form's.
    """
    form = Form(named) if named else Form.LLAMA_FACTORY if target.suffix == ".json" else Form.PAIRS
    if target.suffix not in ENDS[form]:
        others = [other.value for other, ends in ENDS.items() if target.suffix in ends]
        hint = f" (--form {' or '.join(others)} goes there)" if others else ""
        raise AlignError(f"{target}: {form.value} are written to files that end in {' or '.join(ENDS[form])}{hint}")
    return form


def convert(
    source: str, target: Path, form: Form, split: str = "train", columns: Mapping[str, str | None] | None = None, limit: float = 1.0,
    overwrite: bool = False,
) -> Converted:  # fmt: skip
    """Read preferences in any form and write them in another, whole or not at all.

    Args:
        source: as for `align.trees.read_trees`.
        target: the file to write.
        form: of what is written.
        split: of a hub data set.
        columns: our names → the source's.
        overwrite: write over a file that is there already.
        limit: the largest share of records that may be unusable; they are kept in `<target>.set-aside.jsonl`.

    Raises:
        AlignError: the source cannot be read, nothing of it can be used, or the form cannot hold it at all.
    """
    if Path(source).exists() and Path(source).resolve() == target.resolve():
        raise AlignError(f"{target}: it is the file that is read: give another name")
    if target.exists() and not overwrite:
        raise AlignError(f"{target} is there already: give another name, or --overwrite")
    done = Converted()
    aside = target.with_name(f"{target.name}.set-aside.jsonl")
    with UnusableRecords(aside) as unusable:

        def usable() -> Iterator[PreferenceTree]:
            for _, item in locate_trees(source, split, columns):
                if isinstance(item, PreferenceTree):
                    done.trees += 1
                    yield item
                else:
                    unusable.add(item)
            if not done.trees:
                first = unusable.first
                raise AlignError(
                    f"{first.where}: {first.reason} (no record can be used)" if first else f"{source}: there is no record in it"
                )

        _WRITE[form](usable(), target, done)
        unusable.check(done.trees, limit)
        done.unusable = unusable.count
    if done.unusable:
        done.further.append(aside)
    return done


def _write_trees(trees: Iterable[PreferenceTree], target: Path, done: Converted) -> None:
    def counted() -> Iterator[PreferenceTree]:
        for tree in trees:
            done.records += 1
            yield tree

    write_trees(counted(), target)


def _write_pairs(trees: Iterable[PreferenceTree], target: Path, done: Converted) -> None:
    if target.suffix in SHEETS:
        _write_sheet((row for tree in trees for row in _pairs(tree, done)), target)
    else:
        write_pairs(trees, target, lambda tree: iter(_pairs(tree, done)))


def _pairs(tree: PreferenceTree, done: Converted) -> list[dict[str, Any]]:
    """A tree's pairs with its id; counts what is lost."""
    pairs = list(pairs_from_tree(tree))
    done.records += len(pairs)
    _note_lost(tree, done)
    if tree.id is not None:
        for pair in pairs:
            pair["id"] = tree.id
    return pairs


def _note_lost(tree: PreferenceTree, done: Converted) -> None:
    """What pairs have no place for."""
    used = {end for edge in tree.edges for end in (edge.chosen, edge.rejected)}
    above = {ancestor for end in used for ancestor in tree.path(end)}
    kept = ("tools", "chat_template_kwargs")
    lost = {
        "that several pairs are of one tree": len(tree.edges) > 1,
        "nodes in no preference": any(node not in above for node in range(len(tree.nodes))),
        "token ids": tree.prompt_token_ids is not None or any(node.token_ids is not None for node in tree.nodes),
        "that responses are unfinished": any(tree.nodes[end].complete is False for end in used) or bool(above - used),
        "metadata": bool(set(tree.metadata) - set(kept)) or any(node.metadata for node in tree.nodes),
    }
    done.lost.update(name for name, is_lost in lost.items() if is_lost)


def _write_sheet(rows: Iterable[dict[str, Any]], target: Path) -> None:
    """A table of texts: messages as JSON. Rows may have different columns, so that they are held until all are known."""
    held = [{name: cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for name, cell in row.items()} for row in rows]
    names = dict.fromkeys(name for row in held for name in row)
    with writing(target) as scratch, open(scratch, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(names), delimiter=SHEETS[target.suffix], restval="")
        writer.writeheader()
        writer.writerows(held)


def _write_llama_factory(trees: Iterable[PreferenceTree], target: Path, done: Converted) -> None:
    """Its preference form: `conversations`, `chosen` and `rejected` as ShareGPT's messages, and `dataset_info.json` to register it."""
    info = target.with_name("dataset_info.json")
    if target == info:
        raise AlignError(f"{target}: data sets are registered there: give another name")
    registered = _registered(info)
    records = [record for tree in trees for record in _llama_factory(tree, done)]
    write_json(target, records)
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    columns |= {name: name for name in ("system", "tools") if any(name in record for record in records)}
    entry = {"file_name": target.name, "ranking": True, "formatting": "sharegpt", "columns": columns}
    write_json(info, {**registered, target.stem: entry})
    done.further.append(info)


def _registered(info: Path) -> dict[str, Any]:
    """The data sets that LLaMA-Factory knows already.

    Raises:
        AlignError: the file is damaged.
    """
    if not info.exists():
        return {}
    try:
        registered = json.loads(info.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AlignError(f"{info}: it is not JSON ({error}): the data set cannot be registered in it") from error
    if not isinstance(registered, dict):
        raise AlignError(f"{info}: expected an object of data sets: the data set cannot be registered in it")
    return registered


_FROM = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}


def _llama_factory(tree: PreferenceTree, done: Converted) -> Iterator[dict[str, Any]]:
    _note_lost(tree, done)
    if isinstance(tree.prompt, str):
        done.lost.update(["that the prompt is text without a template (it becomes a user's message)"])
    if tree.id is not None:
        done.lost.update(["the record's id"])
    if tree.metadata.get("chat_template_kwargs"):
        done.lost.update(["chat_template_kwargs"])
    for pair in pairs_from_tree(tree):
        if any(name in pair for name in ("weight", "margin", "score_chosen", "score_rejected")):
            done.lost.update(["weights, margins and scores"])
        prompt = [{"role": "user", "content": pair["prompt"]}] if isinstance(pair["prompt"], str) else list(pair["prompt"])
        system = prompt.pop(0)["content"] if prompt and prompt[0]["role"] == "system" else None
        answers = {name: as_messages(pair[name]) for name in ("chosen", "rejected")}
        _check_holds(prompt, answers, tree)
        record: dict[str, Any] = {"conversations": [_turn(turn) for turn in prompt]}
        record |= {name: _turn(turns[0]) for name, turns in answers.items()}
        if system is not None:
            record["system"] = system
        if tree.metadata.get("tools") is not None:
            record["tools"] = json.dumps(tree.metadata["tools"], ensure_ascii=False)
        done.records += 1
        yield record


def _check_holds(prompt: list[Any], answers: Mapping[str, list[Any]], tree: PreferenceTree) -> None:
    named = f" (record {tree.id})" if tree.id else ""
    for name, turns in answers.items():
        if len(turns) != 1:
            raise AlignError(f"LLaMA-Factory's form holds one message as `{name}`, but there are {len(turns)}{named}: write pairs instead")
    for turn in [*prompt, *(turns[0] for turns in answers.values())]:
        if turn["role"] not in _FROM or set(turn) - {"role", "content"}:
            further = ", ".join(sorted(set(turn) - {"role", "content"})) or f"the role '{turn['role']}'"
            raise AlignError(f"LLaMA-Factory's form has no place for {further} of a message{named}: write pairs instead")


def _turn(message: Mapping[str, Any]) -> dict[str, str]:
    return {"from": _FROM[message["role"]], "value": message["content"]}


_WRITE = {Form.TREES: _write_trees, Form.PAIRS: _write_pairs, Form.LLAMA_FACTORY: _write_llama_factory}
