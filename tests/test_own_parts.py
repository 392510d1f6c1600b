"""Parts of a user's own, in files outside of the package: a loss with a hyperparameter, a pair rule, a scorer, a judge; and their listing."""

import subprocess
import sys

import pytest
from conftest import align_here, exact_settings, random_model

from align.errors import AlignError
from align.losses import LOSSES, get_loss
from align.registry import Registry
from align.rewards.pairing import PAIRINGS, pairs_of
from align.rewards.scorers import ScorerSettings, open_scorer
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree
from data_pipelines.thought_trees.judges import find_judge

OWN = '''
"""Parts of a user's own."""

import torch.nn.functional as F

from align.rewards.scorers import Score


def with_target(chosen_scores, rejected_scores, *, beta: float = 0.1, target: float):
    """DPO with a target margin."""
    return -F.logsigmoid(beta * (chosen_scores - rejected_scores) - target)


def misread(chosen_score):
    return chosen_score


def first_over_third(count):
    """The best over the third best."""
    return [(0, 2)]  # also where there are two


class Vowels:
    """Likes vowels."""

    def __init__(self, settings):
        self._each = settings.options.get("each", 1.0)

    def score(self, trees):
        return [[Score(self._each * sum(letter in "aeiou" for letter in node.text)) for node in tree.nodes] for tree in trees]
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_parts", None)
    for name in [name for name in LOSSES if name.startswith("own_parts")]:
        del LOSSES[name]


TREES = [PreferenceTree(f"Question {n}:", (Node(f" yes {n}"), Node(f" no {n}")), (Edge(0, 1),), id=str(n)) for n in range(3)]


def loss_of(settings, tokenizer, **changes):
    trainer = PreferenceTrainer(
        model=random_model(), ref_model=random_model(seed=3), args=PreferenceConfig(**settings, **changes), train_dataset=TREES,
        eval_dataset=TREES, processing_class=tokenizer,
    )  # fmt: skip
    return trainer.evaluate()["eval_loss"]


def test_a_loss_with_a_hyperparameter_is_a_function(own, tokenizer, tmp_path):
    settings = exact_settings(tmp_path)
    plain = loss_of(settings, tokenizer, loss_type=["sigmoid"])
    mine = loss_of(settings, tokenizer, loss_type=["own_parts:with_target"], loss_kwargs={"target": 0.0})
    assert mine == pytest.approx(plain, rel=1e-6)
    assert loss_of(settings, tokenizer, loss_type=["own_parts:with_target"], loss_kwargs={"target": 0.5}) > plain
    assert get_loss("own_parts:with_target").needs_reference


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        ("own_parts:with_target", None, "needs `target`"),
        ("own_parts:with_target", {"targe": 1.0}, "'targe': did you mean 'target'"),
        ("own_parts:with_target", {"target": 1.0, "beta": 1.0}, "a setting by itself: give `beta`"),
        ("sigmoid", {"target": 1.0}, "no loss takes one"),
        ("own_parts:misread", None, "reads 'chosen_score': did you mean 'chosen_scores'"),
        ("own_parts:absent", None, "expected 'module:name'"),
    ],
)
def test_what_does_not_fit_a_loss_is_said(own, tmp_path, loss, given, message):
    with pytest.raises((ValueError, AlignError), match=message):
        PreferenceConfig(**exact_settings(tmp_path), loss_type=[loss], loss_kwargs=given)


def test_pair_rules_scorers_and_judges(own):
    assert pairs_of([3.0, 1.0, 2.0, 0.0], "own_parts:first_over_third") == [(0, 1)]
    with pytest.raises(AlignError, match=r"gives the ranks \(0, 2\) for 2 responses: expected 0 to 1"):
        pairs_of([1.0, 2.0], "own_parts:first_over_third")
    scorer = open_scorer("own_parts:Vowels", ScorerSettings("", "", options={"each": 2.0}))
    assert [score.reward for score in scorer.score(TREES)[0]] == [2.0, 2.0]
    assert find_judge("own_parts:Vowels").__name__ == "Vowels"
    with pytest.raises(AlignError, match=r"rounds.pairing is 'best_wurst': did you mean 'best_worst'"):
        PAIRINGS.find("best_wurst")


def test_installed_packages_add_entries(own, tmp_path, monkeypatch):
    """A distribution with an entry point, as pip leaves it."""
    metadata = tmp_path / "own_parts-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[align.pairings]\nfirst_over_third = own_parts:first_over_third\n")
    found = Registry("pairings", "rounds.pairing")
    assert found.find("first_over_third")(5) == [(0, 2)]
    assert found.sentence("first_over_third") == "The best over the third best."


KINDS = ("losses", "scorers", "pairings", "code-pairings", "judges", "graders", "engines", "tasks", "suites")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_with_a_sentence_each(kind):
    done = align_here("list", kind)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines()[1:] if line[1:2].strip()]
    assert len(rows) >= 3
    assert all(len(row.split()) > 1 for row in rows)


def test_kinds_and_losses_are_listed_without_torch():
    code = "import sys\nfrom align.cli import main\nassert not main(['list', 'losses'])\nassert not main(['list'])\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "arXiv 2305.18290" in done.stdout
    assert all(kind in done.stdout for kind in KINDS)


def test_an_unknown_kind_is_refused():
    done = align_here("list", "loses")
    assert done.returncode == 2
    assert "invalid choice: 'loses'" in done.stderr
