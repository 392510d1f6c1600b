"""The 3D monitor: a callback that watches a fixed set of prompts through the training and says in words what sets in."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.diagnostics.three_d import NodeLogps, ThreeD, Thresholds, findings, measure
from align.engine import TokenTree, TreeBatch
from align.files import DamagedError, naming, read_json, write_json, write_text

logger = logging.getLogger(__name__)
START = "three_d_start.json"


class ThreeDMonitor(TrainerCallback):
    """Measures chosen, rejected and unseen log-probs at every log, on the first trees of the training set.

    Unseen responses are those leaves of the watched trees that have no edge; a tree without any gets one sampled from
    the model as it is at the start. Results go to the logs (`3d/…`), to `three_d.jsonl` in the output folder, and, when
    a property sets in, to a warning.
    """

    def __init__(
        self,
        trees: Callable[[], list[TokenTree]],
        sample: Callable[[list[list[int]]], list[list[int]]],
        score: Callable[[list[TokenTree]], tuple[TreeBatch, Tensor]],
        thresholds: Thresholds | None = None,
    ) -> None:
        """Args:
        trees: gives the watched trees, when training begins.
        sample: prompt token ids → one response's token ids each, from the current model.
        score: trees → the packed batch and its node log-probs `[N]` under the current model.
        thresholds: when a property counts as set in.
        """
        self._watch, self._sample, self._score = trees, sample, score
        self._thresholds = thresholds
        self._trees: list[TokenTree] = []
        self._start: NodeLogps | None = None
        self._said: set[str] = set()
        self.last: ThreeD | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sample the unseen responses and take the log-probs of the start; a resumed training takes up its own start again."""
        start = Path(args.output_dir) / START if args.output_dir is not None else None
        kept = _read_start(start) if state.global_step and start is not None else None
        if kept is not None and start is not None:
            self._trees, self._start = kept
            if state.is_world_process_zero:
                self._said = _forget_after(start.parent / "three_d.jsonl", state.global_step)
            return
        trees = self._watch()
        without = [i for i, tree in enumerate(trees) if not _free_leaves(tree)]
        responses = self._sample([list(trees[i].tokens[0]) for i in without]) if without else []
        for i, response in zip(without, responses, strict=True):
            if response:
                trees[i] = TokenTree(
                    [*trees[i].tokens, response], [*trees[i].parents, 0], trees[i].edges, trees[i].weights, trees[i].margins
                )
        self._trees = trees
        self._start = self._now()
        self._record(args, state, measure(self._start, self._start), [])
        if state.is_world_process_zero and start is not None:
            _write_start(start, self._trees, self._start)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure, if this step is logged."""
        if not control.should_log or self._start is None:
            return
        self.last = measure(self._now(), self._start)
        found = findings(self.last, self._thresholds)
        self._record(args, state, self.last, found)
        for finding in found:
            name = finding.split(":")[0]
            if name not in self._said and state.is_world_process_zero:
                self._said.add(name)
                logger.warning("3D, step %d: %s.", state.global_step, finding)

    def take(self) -> dict[str, float]:
        """The latest measurement for the logs, once."""
        metrics = self.last.as_metrics() if self.last else {}
        self.last = None
        return metrics

    def _now(self) -> NodeLogps:
        batch, node_logps = self._score(self._trees)
        return NodeLogps(*(node_logps[nodes].float().cpu() for nodes in (batch.chosen, batch.rejected, batch.free)))

    def _record(self, args: TrainingArguments, state: TrainerState, three_d: ThreeD, found: list[str]) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "three_d.jsonl"
        with naming(path), open(path, "a" if state.global_step else "w", encoding="utf-8") as out:
            out.write(json.dumps({"step": state.global_step, **three_d.as_metrics(), "findings": found}) + "\n")


def _free_leaves(tree: TokenTree) -> list[int]:
    used = {node for edge in tree.edges for node in edge} | set(tree.parents)
    return [node for node in range(1, len(tree.tokens)) if node not in used]


def _write_start(path: Path, trees: list[TokenTree], start: NodeLogps) -> None:
    """Keep what is watched and how likely it was at the start, for a training that is resumed."""
    logps = {name: values.tolist() for name, values in vars(start).items()}
    write_json(path, {"trees": [vars(tree) for tree in trees], "logps": logps})


def _read_start(path: Path) -> tuple[list[TokenTree], NodeLogps] | None:
    """What `_write_start` left; None where nothing did, or it is damaged, which is said."""
    try:
        content = read_json(path, lambda content: isinstance(content, dict) and content.keys() == {"trees", "logps"})
        if content is None:
            return None
        trees = [TokenTree(**{**tree, "edges": [(c, r) for c, r in tree["edges"]]}) for tree in content["trees"]]
        return trees, NodeLogps(**{name: torch.tensor(values) for name, values in content["logps"].items()})
    except (DamagedError, TypeError, KeyError, ValueError, AttributeError) as error:
        logger.warning("%s cannot be read (%s): the 3D monitor measures from here on.", path, error)
        return None


def _forget_after(path: Path, step: int) -> set[str]:
    """Drop measurements of steps that an interrupted training had done beyond the checkpoint, and will do again; a torn line, too.

    Returns:
        The properties that have set in before.
    """
    kept: list[str] = []
    found: set[str] = set()
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
                measured = json.loads(line)
                if measured["step"] <= step:
                    kept.append(line)
                    found |= {finding.split(":")[0] for finding in measured["findings"]}
        write_text(path, "".join(kept))
    return found
