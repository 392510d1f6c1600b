"""Foreign searches as trees: the logs of princeton-nlp/tree-of-thought-llm (arXiv 2305.10601), which list every step's candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from align.errors import AlignError
from align.trees import ROOT, Node, PreferenceTree, Rejected, path_text
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.thought_trees.selection import outcome, winners
from data_pipelines.thought_trees.tasks import Question, ThoughtTask

Keep = Literal["answers", "selected"]


def read_tot_log(path: str | Path, task: ThoughtTask, keep: Keep = "answers") -> tuple[list[PreferenceTree], list[Rejected]]:
    """Searches logged by the tree-of-thought code: a JSON list of `{"steps": [{"x", "ys", "new_ys", "values", …}], …}`.

    Args:
        path: the log.
        task: of one field, which `x` fills in; says how a question is asked and what its answer is.
        keep: which paths count as kept: "answers", those whose answer's values sum highest (CPO's rule; a search without a
            readable answer gives no tree), or "selected", those that the log says were selected at the last step.

    Returns:
        Search trees, as `search` makes them (without token ids), and the records that give none, each with the reason.

    Raises:
        AlignError: the file is no such log.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    question = _question(steps[0], task)
    places: dict[str, int] = {"": ROOT}
    nodes: list[Node] = []
    last: list[int] = []
    for number, step in enumerate(steps):
        if not isinstance(step, Mapping) or not {"ys", "new_ys", "values"} <= set(step) or len(step["new_ys"]) != len(step["values"]):
            raise AlignError(f"steps[{number}]: expected `ys`, `new_ys` and as many `values`")
        for text, value in zip(step["new_ys"], step["values"], strict=True):
            if text not in places:
                parent = _parent(text, step["ys"], number)
                places[text] = len(nodes)
                nodes.append(Node(text[len(parent) :], places[parent], score=float(value), complete=False))
        last = list(dict.fromkeys(places[text] for text in step["new_ys"]))
    selected = [places[text] for text in steps[-1].get("select_new_ys", ()) if text in places]
    return _searched(question, nodes, last, selected if keep == "selected" else None, task)


def _question(step: Mapping[str, Any], task: ThoughtTask) -> Question:
    if not isinstance(step.get("x"), str):
        raise AlignError("steps[0].x is missing: the question")
    fields = dict.fromkeys(task.data.fields, step["x"])
    return Question(prompt_id(step["x"]), fields, (task.data.gold_always,) if task.data.gold_always else ())


def _parent(text: str, before: Sequence[str], number: int) -> str:
    """The longest kept path that a candidate continues."""
    found = [path for path in before if text.startswith(path) and len(path) < len(text)]
    if not found:
        raise AlignError(f"steps[{number}]: the candidate {text[-60:]!r} continues none of the kept paths")
    return max(found, key=len)


def _searched(question: Question, nodes: list[Node], last: list[int], selected: list[int] | None, task: ThoughtTask) -> PreferenceTree:
    tree = PreferenceTree(task.prompt(question), tuple(nodes), id=question.id)
    texts = {node: path_text(tree, tree.path(node)) for node in last}
    answers = {node: answer for node, text in texts.items() if (answer := task.canonical(text, question)) is not None}
    if selected is None and not answers:
        raise AlignError("no final thought states an answer that can be read")
    answer, kept = winners(answers, lambda node: nodes[node].score or 0.0) if answers else ("none", [])
    kept = kept if selected is None else selected
    gold = [node for node in answers if task.is_right(texts[node], question)]
    search = outcome(question, answers, answer, kept, gold, steps=tree.depth, dropped={}, cost={})
    return replace(tree, metadata={"search": search})
