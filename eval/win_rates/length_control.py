"""Length-controlled win rates: what the win rate would be if both outputs were as long (arXiv 2404.04475)."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from align.errors import AlignError
from eval.intervals import Interval
from eval.win_rates.annotations import Annotation

HUB = ("tatsu-lab/alpaca_eval", "df_gamed.csv")
COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")
GAMED_WEIGHT = 0.2 / 2  # of an annotation of the gamed baselines: λ over their number
STRENGTHS = np.logspace(-4, 4, 10)  # inverse regularization, as scikit-learn's cross-validation tries them
FOLDS = 5
RESAMPLES = 200  # fits for the interval
SEED = 123


@dataclass(frozen=True)
class Gamed:
    """What AlpacaEval keeps on the hub: annotations of gamed baselines (verbose and concise answers of the baseline
    itself, which must come out as equals), and how difficult each instruction is. Row by row.

    Attributes:
        preference: 0 to 1.
        length: the standardised difference of lengths, baseline minus model.
        difficulty: of the row's instruction.
        of_instruction: the difficulty of each instruction, in their order.
    """

    preference: np.ndarray
    length: np.ndarray
    difficulty: np.ndarray
    of_instruction: np.ndarray


def read_gamed(path: str | Path | None = None) -> Gamed:
    """Read `df_gamed.csv`, from a file or its folder, or else from the hub.

    Raises:
        AlignError: it cannot be had, or lacks a column.
    """
    source = _from_hub() if path is None else Path(path) / HUB[1] if Path(path).is_dir() else Path(path)
    try:
        with open(source, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise AlignError(f"{source}: cannot be read ({error.strerror})") from error
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise AlignError(f"{source}: column '{missing[0]}' is missing: expected AlpacaEval's {HUB[1]}")
    try:
        index, *numbers = (np.array([float(row[column] or "nan") for row in rows]) for column in COLUMNS)
    except ValueError as error:
        raise AlignError(f"{source}: {error}") from error
    preference, length, difficulty = numbers
    known = ~np.isnan(preference)
    _, first = np.unique(index, return_index=True)
    share = np.where(preference == 0, 0.5, preference - 1) if np.nanmax(preference) > 1 else preference
    return Gamed(share[known], length[known], difficulty[known], difficulty[first])


def _from_hub() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, name = HUB
    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset"))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise AlignError(f"{name} of {repository} cannot be had from the hub ({type(error).__name__}): give its path") from error


@dataclass(frozen=True)
class Controlled:
    """A win rate at equal lengths, 0 to 1.

    Attributes:
        win_rate: mean over instructions, with the bootstrap's interval: fitted anew to annotations drawn again.
        standard_error: as the leaderboard gives it: of the predictions' mean, as if the fit were certain.
        weights: of the model's terms: `length`, `model`, and `difficulty` where instructions have one.
    """

    win_rate: Interval
    standard_error: float
    weights: dict[str, float]

    @property
    def comparable(self) -> bool:
        """Whether this is the leaderboard's model; without difficulties it is not."""
        return "difficulty" in self.weights


def length_controlled(annotations: Sequence[Annotation], gamed: Gamed | None) -> Controlled:
    """Fit logit P(model's output is better) = w·tanh(length) + d·difficulty + m, then leave the length term out.

    With `gamed`, AlpacaEval's `length_controlled_v1`: its gamed baselines take part in the fit with a weight of 0.1 each and no
    term m of their own; L1-regularized, the strength by five-fold cross-validation. Without, two terms, and another number.

    Args:
        annotations: at least ten with a preference. With `gamed` the instructions must be AlpacaEval's, at their places.
        gamed: see `read_gamed`.

    Raises:
        AlignError: too few annotations, all outputs of a length, or instructions that have no difficulty.
    """
    judged = np.array([one.preference is not None for one in annotations])
    if judged.sum() < 2 * FOLDS:
        raise AlignError(f"length control takes at least {2 * FOLDS} annotations with a preference, found {judged.sum()}")
    lengths = np.array([len(one.output_1) - len(one.output_2) for one in annotations], dtype=float)
    if lengths.std() == 0:
        raise AlignError("length control: all outputs differ from the baseline's by the same length; the win rate is already free of it")
    features = [np.tanh(lengths / lengths.std(ddof=1)), np.ones(len(annotations))]
    names = ["length", "model"]
    if gamed is not None:
        features.insert(1, _difficulties(annotations, gamed))
        names.insert(1, "difficulty")
    rows = np.stack(features, 1)
    targets = np.array([0.0 if one.preference is None else one.preference for one in annotations])
    fitted, wanted, weight = rows[judged], targets[judged], np.ones(judged.sum())
    if gamed is not None:
        others = np.stack([np.tanh(gamed.length), gamed.difficulty, np.zeros(len(gamed.length))], 1)
        fitted, wanted = np.concatenate([others, fitted]), np.concatenate([gamed.preference, wanted])
        weight = np.concatenate([np.full(len(others), GAMED_WEIGHT), weight])
    strength = _best_strength(fitted, wanted, weight)
    even = rows.copy()
    even[:, 0] = 0.0
    weights = _regress(fitted, wanted, weight, strength)
    chances = _chances(even @ weights)
    draw, fixed = np.random.default_rng(SEED), len(fitted) - judged.sum()
    means = []
    for _ in range(RESAMPLES):
        again = draw.integers(0, judged.sum(), judged.sum())
        taken = np.concatenate([np.arange(fixed), fixed + again])
        means.append(_chances(even[judged][again] @ _regress(fitted[taken], wanted[taken], weight[taken], strength)).mean())
    low, high = np.quantile(means, (0.025, 0.975))
    error = float(chances.std(ddof=1) / np.sqrt(len(chances)))
    found = Interval(float(chances.mean()), float(low), float(high), int(judged.sum()))
    return Controlled(found, error, dict(zip(names, map(float, weights), strict=True)))


def _chances(scores: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -scores))


def _difficulties(annotations: Sequence[Annotation], gamed: Gamed) -> np.ndarray:
    beyond = [one.index for one in annotations if one.index >= len(gamed.of_instruction)]
    if beyond:
        raise AlignError(
            f"length control: annotation {beyond[0]} has no difficulty (there are {len(gamed.of_instruction)}): "
            "the leaderboard's model is for AlpacaEval's own instructions, in their order"
        )
    return gamed.of_instruction[[one.index for one in annotations]]


def _best_strength(features: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    """The strength with the least log-loss over the folds; both halves of a row (see `_regress`) are in the same one."""
    rows = np.arange(len(targets))
    losses = np.zeros(len(STRENGTHS))
    for train, test in _sklearn("model_selection").GroupKFold(FOLDS).split(np.tile(features, (2, 1)), groups=np.tile(rows, 2)):
        inside, outside = np.unique(train % len(rows)), np.unique(test % len(rows))
        for place, strength in enumerate(STRENGTHS):
            found = _regress(features[inside], targets[inside], weight[inside], strength)
            losses[place] += _log_loss(features[outside] @ found, targets[outside], weight[outside])
    return float(STRENGTHS[int(losses.argmin())])


def _regress(features: np.ndarray, targets: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """L1-regularized logistic regression on probabilities: each row counts once as a win and once as a loss, so much of each."""
    model = _sklearn("linear_model").LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=SEED
    )
    twice = np.tile(features, (2, 1))
    labels = np.repeat([1, 0], len(targets))
    model.fit(twice, labels, sample_weight=np.concatenate([weight * targets, weight * (1 - targets)]))
    return np.asarray(model.coef_[0])


def _sklearn(module: str) -> Any:
    """A module of scikit-learn.

    Raises:
        AlignError: it is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise AlignError("length control needs scikit-learn: pip install 'align-preferences[eval]'") from error


def _log_loss(scores: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (targets * np.logaddexp(0, -scores) + (1 - targets) * np.logaddexp(0, scores))).mean())
