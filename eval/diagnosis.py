"""What `align diagnose` says: how training has moved the likelihoods of a data set, which of its pairs displace, how on-policy it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from align.diagnostics import ThreeD, findings, measure
from align.diagnostics.inspection import SCORES, Inspected, Inspection, inspect, own_samples, tokenize, without_highest
from align.diagnostics.three_d import NodeLogps
from align.errors import AlignError, nearest
from align.models import load_model, load_tokenizer
from align.trees import PreferenceTree, check_rejected, read_trees, write_jsonl, write_trees
from eval.intervals import Interval, interval


@dataclass(frozen=True)
class Question:
    """What is to be diagnosed.

    Attributes:
        model: whose view of the data it is.
        data, split: the preferences.
        reference: where training began; without it, nothing is said of drift.
        unseen: so many prompts get a response sampled from the reference (or the model).
        limit: the first so many trees.
        max_length: tokens of a path; longer ones lose their end.
        max_new_tokens: of the sampled responses.
        dtype: of the weights.
    """

    model: str
    data: str
    split: str = "train"
    reference: str | None = None
    unseen: int = 32
    limit: int | None = None
    max_length: int | None = 4096
    max_new_tokens: int = 256
    dtype: str = "auto"


@dataclass(frozen=True)
class Displacing:
    """A pair that displaces much: its scores, and the beginnings of its texts."""

    edge: Inspected
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Attributes:
        edges: every edge under the model.
        on_policy: mean log-prob a token, nats: of `chosen`, `rejected`, and `own` samples; the nearer the data is to its own samples,
            the more on-policy it is.
        drift: against the reference, with what has set in, in words.
        findings: of the drift.
        displacing: the highest normalised CHES first.
        left_out: trees that could not be used.
    """

    edges: list[Inspected]
    on_policy: dict[str, Interval]
    drift: ThreeD | None
    findings: list[str]
    displacing: list[Displacing]
    left_out: int


def diagnose(question: Question, top: int = 5) -> tuple[Diagnosis, list[PreferenceTree]]:
    """Inspect a data set under one model or two.

    Args:
        question: what to look at.
        top: so many displacing pairs are listed.

    Returns:
        The diagnosis, and the trees it speaks of.

    Raises:
        AlignError: a model or the data cannot be had, or there is no usable pair.
    """
    found, rejected = read_trees(question.data, question.split)
    trees = found[: question.limit]
    tokenizer = load_tokenizer(question.model)
    tokens, unusable = tokenize(trees, tokenizer, question.max_length)
    tokens = {number: tree for number, tree in tokens.items() if tree.edges}
    check_rejected(len(tokens), [*rejected, *unusable], None, 0.5)
    if not tokens:
        raise AlignError(f"{question.data}: there is no pair to look at")
    first = _load(question.reference or question.model, question.dtype)
    unseen = own_samples(first, tokenizer, tokens, question.unseen, question.max_new_tokens)
    start = (inspect(first, tokens), inspect(first, unseen))
    if question.reference is None:
        now = start
    else:
        del first
        model = _load(question.model, question.dtype)
        now = (inspect(model, tokens), inspect(model, unseen))
    drift = None if question.reference is None else measure(_logps(now), _logps(start))
    ranked = sorted(now[0].edges, key=lambda edge: edge.ches_normalized, reverse=True)
    diagnosis = Diagnosis(
        edges=now[0].edges, on_policy=_a_token(now), drift=drift, findings=findings(drift) if drift else [],
        displacing=[_displacing(edge, trees[edge.tree]) for edge in ranked[:top]], left_out=len(rejected) + len(unusable),
    )  # fmt: skip
    return diagnosis, trees


def check_filter(share: float, by: str) -> None:
    """See that a filter makes sense, before anything is computed.

    Raises:
        AlignError: no such score, or a share outside (0, 1).
    """
    if by not in SCORES:
        raise AlignError(f"--by {by}: {nearest(by, SCORES)}")
    if not 0 < share < 1:
        raise AlignError(
            f"--filter {share}: expected a share of the pairs between 0 and 1 to drop, such as 0.95, which keeps the lowest 5%"
        )


def write_filtered(trees: Sequence[PreferenceTree], edges: Sequence[Inspected], share: float, by: str, path: Path) -> tuple[int, int]:
    """Write a data set without its most displacing edges.

    Args:
        trees: the data set.
        edges: its inspection.
        share: see `without_highest`.
        by: see `without_highest`.
        path: a `.jsonl` or `.parquet` file.

    Returns:
        Edges left, and edges there were.
    """
    left = without_highest(trees, edges, share, by)
    write_trees(left, path)
    return sum(len(tree.edges) for tree in left), len(edges)


def write_edges(edges: Sequence[Inspected], path: Path) -> None:
    """Write every edge's numbers as JSONL."""
    write_jsonl((asdict(edge) for edge in edges), path)


def _load(source: str, dtype: str) -> torch.nn.Module:
    model: torch.nn.Module = load_model(source, dtype=dtype, key="model").to("cuda" if torch.cuda.is_available() else "cpu")
    return model


def _logps(seen: tuple[Inspection, Inspection]) -> NodeLogps:
    pairs, unseen = seen
    values = ([edge.chosen_logp for edge in pairs.edges], [edge.rejected_logp for edge in pairs.edges], unseen.unseen_logps)
    return NodeLogps(*(torch.tensor(column, dtype=torch.float64) for column in values))


def _a_token(seen: tuple[Inspection, Inspection]) -> dict[str, Interval]:
    pairs, unseen = seen
    found = {
        "chosen": interval([edge.chosen_logp / edge.chosen_tokens for edge in pairs.edges]),
        "rejected": interval([edge.rejected_logp / edge.rejected_tokens for edge in pairs.edges]),
    }
    if unseen.unseen_logps:
        found["own"] = interval([logp / tokens for logp, tokens in zip(unseen.unseen_logps, unseen.unseen_tokens, strict=True)])
    return found


def _displacing(edge: Inspected, tree: PreferenceTree) -> Displacing:
    places = tree.edges[edge.edge]
    prompt = tree.prompt if isinstance(tree.prompt, str) else " / ".join(str(message.get("content") or "") for message in tree.prompt)
    return Displacing(edge, prompt, *(str(tree.nodes[place].text) for place in (places.chosen, places.rejected)))
