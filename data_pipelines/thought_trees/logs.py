"""Foreign searches as trees: the logs of princeton-nlp/tree-of-thought-llm (arXiv 2305.10601), which list every step's candidates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from align.errors import AlignError
from align.trees import ROOT, Node, PreferenceTree, Rejected, path_text
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.thought_trees.selection import outcome, winners, with_agreeing
from data_pipelines.thought_trees.tasks import Question, ThoughtTask

Keep = Literal["answers", "selected"]


def read_tot_log(path: str | Path, task: ThoughtTask, keep: Keep = "answers") -> tuple[list[PreferenceTree], list[Rejected]]:
    """Searches logged by the tree-of-thought code: a JSON list of `{"steps": [{"x", "ys", "new_ys", "values", …}], …}`.

    Args:
        path: the log.
        task: of one field, which `x` fills in; says how a question is asked and what its answer is.
        keep: which paths count as kept: "answers", those of the winning answer (the task's `winner`; a search without a readable
            answer gives no tree), or "selected", those that the log says were selected at the last step.

    Returns:
        Search trees, as `search` makes them (without token ids), and the records that give none, each with the reason.

    Raises:
        AlignError: the file is no such log.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlignError(f"{path}: cannot be read as a tree-of-thought log: {error}") from error
    if not isinstance(records, list):
        raise AlignError(f"{path}: expected a list of searches, found {type(records).__name__}")
    if len(task.data.fields) != 1:
        raise AlignError(f"{path}: such a log has one text a question, but the task has the fields {', '.join(task.data.fields)}")
    trees: list[PreferenceTree] = []
    rejected: list[Rejected] = []
    for number, record in enumerate(records):
        try:
            trees.append(_tree(record, task, keep))
        except AlignError as error:
            rejected.append(Rejected(f"{path} record {number}", str(error), record))
    return trees, rejected


def _tree(record: Any, task: ThoughtTask, keep: Keep) -> PreferenceTree:
    steps = record.get("steps") if isinstance(record, Mapping) else None
    if not isinstance(steps, list) or not steps:
        raise AlignError("`steps` is missing: a search has the candidates of every step")
    for number, step in enumerate(steps):
        _check_step(step, number)
    question = _question(steps[0], task)
    places: dict[str, int] = {"": ROOT}
    nodes: list[Node] = []
    last: list[int] = []
    for number, step in enumerate(steps):
        for text, value in zip(step["new_ys"], step["values"], strict=True):
            if text not in places:
                parent = _parent(text, [path for path in step["ys"] if path in places], number)
                places[text] = len(nodes)
                nodes.append(Node(text[len(parent) :], places[parent], score=float(value), complete=False))
        last = list(dict.fromkeys(places[text] for text in step["new_ys"]))
    return _searched(question, nodes, last, _selected(steps, places) if keep == "selected" else None, task)


def _check_step(step: Any, number: int) -> None:
    """The lists of a step, each entry of its type.

    Raises:
        AlignError: a list is missing, or an entry is null or of another type; says where.
    """
    if not isinstance(step, Mapping) or not all(isinstance(step.get(key), list) for key in ("ys", "new_ys", "values")):
        raise AlignError(f"steps[{number}]: expected `ys`, `new_ys` and as many `values`")
    if len(step["new_ys"]) != len(step["values"]):
        raise AlignError(f"steps[{number}]: expected `ys`, `new_ys` and as many `values`")
    for key in ("ys", "new_ys"):
        for place, text in enumerate(step[key]):
            if not isinstance(text, str) or not _is_unicode(text):
                raise AlignError(f"steps[{number}].{key}[{place}] is {_shown(text)}: expected text")
    for place, text in enumerate(step["new_ys"]):
        if not text:
            raise AlignError(f"steps[{number}].new_ys[{place}] is empty: expected the path so far with its new thought")
    for place, value in enumerate(step["values"]):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            raise AlignError(f"steps[{number}].values[{place}] is {_shown(value)}: expected a finite number")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file: half a surrogate pair, which JSON can hold, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    """An entry as JSON writes it, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _question(step: Mapping[str, Any], task: ThoughtTask) -> Question:
    if not isinstance(step.get("x"), str) or not step["x"].strip() or not _is_unicode(step["x"]):
        raise AlignError("steps[0].x is missing: the question")
    fields = dict.fromkeys(task.data.fields, step["x"])
    return Question(prompt_id(step["x"]), fields, (task.data.gold_always,) if task.data.gold_always else ())


def _parent(text: str, before: Sequence[str], number: int) -> str:
    """The longest kept path that a candidate continues."""
    found = [path for path in before if text.startswith(path) and len(path) < len(text)]
    if not found:
        raise AlignError(f"steps[{number}]: the candidate {text[-60:]!r} continues none of the kept paths")
    return max(found, key=len)


def _selected(steps: Sequence[Mapping[str, Any]], places: Mapping[str, int]) -> list[int]:
    """The nodes that the log says were selected at the last step."""
    number = len(steps) - 1
    selected = steps[-1].get("select_new_ys")
    if not isinstance(selected, list) or not selected:
        raise AlignError(f"steps[{number}].select_new_ys is missing: the paths that were selected")
    for place, text in enumerate(selected):
        if not isinstance(text, str) or text not in places or not text:
            raise AlignError(f"steps[{number}].select_new_ys[{place}] is {_shown(text)}: no candidate of this search")
    return [places[text] for text in dict.fromkeys(selected)]


def _searched(question: Question, nodes: list[Node], last: list[int], selected: list[int] | None, task: ThoughtTask) -> PreferenceTree:
    if not last:
        raise AlignError("the last step has no candidates")
    tree = PreferenceTree(task.prompt(question), tuple(nodes), id=question.id)
    texts = {node: path_text(tree, tree.path(node)) for node in last}
    answers = {node: answer for node, text in texts.items() if (answer := task.canonical(text, question)) is not None}
    if selected is None and not answers:
        raise AlignError("no final thought states an answer that can be read")

    def value(node: int) -> float:
        return nodes[node].score or 0.0

    answer, kept = winners(answers, value, task.winner) if answers else ("none", [])
    kept = with_agreeing(kept, answers, answer, task.agree, value) if selected is None else selected
    gold = [node for node in answers if task.is_right(texts[node], question)]
    search = outcome(question, answers, answer, kept, gold, steps=tree.depth, dropped={}, cost={})
    return replace(tree, metadata={"search": search})
