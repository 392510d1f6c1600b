"""The names that papers and other trainers use for losses, and what is said of names that are none."""

import pytest

from align import loss_names, recipes
from align.errors import AlignError
from align.losses import COMPOSITES, LOSSES, expand, get_loss
from align.ranges import SECTIONS
from align.trainers import PreferenceConfig


def test_names_read_without_torch_are_those_of_the_registry():
    assert set(loss_names.known()) == {name for name in LOSSES if ":" not in name} | set(COMPOSITES)


@pytest.mark.parametrize("alias", loss_names.ALIASES)
def test_every_alias_is_a_loss_and_hides_none(alias):
    assert get_loss(alias) is LOSSES[loss_names.ALIASES[alias]]
    assert alias not in LOSSES


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dpo", "sigmoid"), ("DPO", "sigmoid"), ("Cal-DPO", "cal_dpo"), ("SimPO", "simpo"), ("kto_pair", "kto"), ("IPO", "ipo"),
        ("orpo", "orpo"), ("aot_pair", "aot"), ("SLiC-HF", "hinge"), ("bco", "bco_pair"), ("sppo", "sppo_hard"), ("rso", "hinge"),
        ("DPO-Positive", "dpo_positive"), ("robust", "robust"), ("exo-pair", "exo_pair"), ("SELM", "selm"), ("IRPO", "rpo"),
    ],
)  # fmt: skip
def test_usual_names_in_recipes_and_in_python_are_ours(written, meant, tmp_path):
    raw = {"model": {"name_or_path": "m"}, "data": {"train": "d.jsonl"}, "training": {"loss_type": written}}
    assert recipes.parse(raw, "r").training["loss_type"] == meant
    config = PreferenceConfig(output_dir=str(tmp_path), loss_type=[written], use_cpu=True, bf16=False)
    assert config.loss_type == [meant]
    assert [loss.name for loss, _ in expand([written])] == list(COMPOSITES.get(meant, (meant,)))


@pytest.mark.parametrize("name", loss_names.OTHERS)
def test_names_that_are_no_loss_here_say_what_to_use(name):
    with pytest.raises(ValueError, match="unknown loss") as said:
        get_loss(name)
    assert loss_names.OTHERS[name] in str(said.value)


def test_a_loss_gives_one_value_for_each_edge(tmp_path):
    import torch

    from align.losses.registry import Loss, evaluate

    mean = Loss("mean", lambda chosen_logps: chosen_logps.mean(), "", ("chosen_logps",), (), "edge", False)
    with pytest.raises(AlignError, match=r"Loss 'mean' gives values of the shape \[\]: expected one value for each"):
        evaluate(mean, {"chosen_logps": torch.zeros(3)}, {})


@pytest.mark.parametrize("key", SECTIONS)
def test_every_range_is_that_of_a_key(key):
    model = recipes.Recipe
    *above, last = key.split(".")
    for part in above:
        annotation = model.model_fields[part].annotation
        model = next(kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields"))
    assert last in model.model_fields
