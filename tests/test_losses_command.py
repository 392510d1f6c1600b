"""`align losses` says of each loss what its function, its registration and the settings say; `align --version` says the version."""

import inspect

import pytest
from conftest import align_here

from align import __version__
from align.cli.losses import described
from align.losses import LOSSES
from align.recipes.training_keys import training_help
from align.trainers import PreferenceConfig


def test_the_version_is_said():
    done = align_here("--version")
    assert (done.returncode, done.stdout) == (0, f"align {__version__}\n")


def test_without_a_name_every_loss_has_a_line():
    done = align_here("losses")
    assert done.returncode == 0, done.stderr
    assert done.stdout == align_here("list", "losses").stdout


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_described_by_its_own_words(name):
    loss = LOSSES[name]
    text = "\n".join(described(loss))
    assert inspect.getdoc(loss.fn).splitlines()[0] in text
    assert loss.source in text
    assert ">>>" not in text
    for key in loss.hyperparameters:
        assert f"training.{key}: " in text
    if loss.default_beta is not None:
        assert f"training.beta: {loss.default_beta!r}" in text


def test_the_help_of_settings_is_that_of_the_classes():
    fields = PreferenceConfig.__dataclass_fields__
    for key in {key for loss in LOSSES.values() for key in loss.hyperparameters}:
        assert training_help()[key].help == " ".join(fields[key].metadata["help"].split())
        assert training_help()[key].default == repr(fields[key].default)


def test_usual_names_and_composites_are_found():
    assert align_here("losses", "DPO").stdout.startswith("sigmoid\n  DPO: −log σ(")
    both = align_here("losses", "selm").stdout
    assert both.startswith("selm: sigmoid + optimism\n")
    assert "\noptimism\n" in both


def test_a_loss_of_the_users_own_is_described(tmp_path, monkeypatch):
    source = 'def own(chosen_scores, *, gamma: float, beta=0.3):\n    """My loss.\n\n    >>> 1\n    1\n    """\n'
    (tmp_path / "own_loss_file.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        done = align_here("losses", "own_loss_file:own")
    finally:
        LOSSES.pop("own_loss_file:own", None)
    assert done.returncode == 0, done.stderr
    assert "My loss." in done.stdout
    assert "training.loss_kwargs.gamma: must be given" in done.stdout
    assert "training.beta: 0.3" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [("sigmoit", "unknown loss 'sigmoit': did you mean 'sigmoid'?"), ("nowhere:none", "expected 'module:name'"), ("os:sep", "no function")],
)
def test_what_is_no_loss_is_one_sentence(name, message):
    done = align_here("losses", name)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
