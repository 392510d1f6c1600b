"""Every key of every method changes what the plan does, or is refused by a sentence that names it."""

import copy
import types
import typing

import pytest
from conftest import align_here

from align import loss_names, recipes
from align.errors import AlignError
from align.losses.registry import LOSSES
from align.plans import runs_of
from align.recipes.sections import Section
from align.trainers import PreferenceConfig
from align.unused_keys import check_used, check_written

METHODS = (
    "dpo/zephyr-7b", "dice/zephyr-7b", "selm/zephyr-7b", "self-rewarding/llama3-8b", "online-dpo/llama3-8b", "cpo/qwen2.5-7b-gsm8k",
    "step-dpo/qwen2.5-7b-gsm8k", "irpo/qwen2.5-7b-gsm8k", "code/qwen2.5-coder-7b-mbpp",
)  # fmt: skip
WITHOUT_PLAN = ("description", "variants", "seeds", "training")
USEFUL = {"model.chat_template", "rounds.overrides", "data.columns", "resources.accelerate"}
"""Keys whose values are a file that is read, keys or names: no value made up here fits."""


def fields(section, above=()):
    """Place, field and value of every key of a recipe; those of sections that it leaves out are not."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from fields(value, (*above, name))
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            for number, entry in enumerate(value):
                yield from fields(entry, (*above, name, number))
        else:
            yield (*above, name), field, value


def values(kind):
    """Some values of a type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return list(parts)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [value for part in (parts[:1] if origin is typing.Annotated else parts) for value in values(part)]
    if origin is list:
        return [[value] for value in values(parts[0])[:1]]
    plain = {bool: [True, False], int: [1, 2, 3, 20], float: [0.25, 0.5, 0.75, 1.5], str: ["another"]}
    return plain.get(kind, [{"another": 1}] if origin is dict else [])


def changed(raw, place, value):
    raw = copy.deepcopy(raw)
    section = raw
    for part in place[:-1]:
        section = section[part]
    section[place[-1]] = value
    return recipes.parse(raw, "recipe")


def accepted(raw, place, value):
    """The recipe with one value changed, or the sentence that refuses it."""
    try:
        recipe = changed(raw, place, value)
        check_used(recipe, [place])
    except AlignError as error:
        return None, str(error)
    return recipe, ""


def plan(raw, place, value):
    """What is planned with one value changed, or the sentence that refuses it."""
    try:
        return [(run.folder.path, run.stages) for run in runs_of(changed(raw, place, value))]
    except AlignError as error:
        return str(error)


@pytest.mark.parametrize("name", METHODS)
def test_every_key_is_used_or_refused(name):
    recipe = recipes.load(name)
    raw = recipe.model_dump()
    for place, field, value in fields(recipe):
        key = ".".join(map(str, place))
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        if place[0] in WITHOUT_PLAN or key in USEFUL:
            continue
        for other in (other for other in values(field.annotation) if other not in (value, default)):
            given, refusal = accepted(raw, place, other)
            if given is None:
                assert str(place[-1]) in refusal or str(other) in refusal, f"{key} = {other}: {refusal}"
            elif default not in (..., None):  # None: as something else says, which may be the same
                assert plan(raw, place, other) != plan(raw, place, default), f"{key} = {other}"


@pytest.mark.parametrize(
    ("name", "override", "about"),
    [
        ("dpo/zephyr-7b", "resources.processes=2", "sampling and scoring"),
        ("dpo/zephyr-7b", "resources.tensor_parallel=2", "when sampling"),
        ("dpo/zephyr-7b", "rollouts.prompts=a.jsonl", ""),
        ("dice/zephyr-7b", "data.eval_split=validation", "Split of a hub data set"),
        ("dice/zephyr-7b", "rounds.quantile=0.5", "several scorers"),
        ("dice/zephyr-7b", "rounds.reference_samples=4", "several scorers"),
        ("dice/zephyr-7b", "rollouts.url=http://localhost:8000", "server"),
        ("cpo/qwen2.5-7b-gsm8k", "rollouts.prompts_column=text", "prompts"),
        ("cpo/qwen2.5-7b-gsm8k", "rollouts.batch=8", "transformers"),
        ("cpo/qwen2.5-7b-gsm8k", "data.train_split=test", "Split"),
        ("irpo/qwen2.5-7b-gsm8k", "data.train=a.jsonl", "Not needed"),
        ("irpo/qwen2.5-7b-gsm8k", "measure.0.search=false", "tree search"),
        ("code/qwen2.5-coder-7b-mbpp", "rollouts.prompts_column=text", "prompts"),
        ("micro/cpo", "thoughts.judge.votes=3", "judgements of each path"),
        ("micro/cpo", "thoughts.judge.options={model: m}", "own"),
        ("dice/zephyr-7b", "rounds.scorers=[{name: implicit, weight: 2.0}]", "In the sum"),
        ("self-rewarding/llama3-8b", "rounds.policy_scores=sampler", "log-probs"),
        ("irpo/qwen2.5-7b-gsm8k", "rounds.length_unit=tokens", "counts"),
        ("dpo/zephyr-7b", "training.simpo_gamma=0.3", "read by simpo"),
        ("dpo/zephyr-7b", "training.label_smoothing=0.1", "read by aot, aot_unpaired, cdpo"),
        ("dpo/zephyr-7b", "training.sft_normalization=sum", "training.sft_weight"),
        ("dice/zephyr-7b", "training.beta_rejected_end=0.1", "training.beta_rejected"),
    ],
)
def test_a_key_of_no_use_is_named_with_what_it_is(name, override, about):
    with pytest.raises(AlignError) as found:
        check_written(name, [override])
    named = str(found.value).partition(" is of no use in this recipe")[0]
    key = override.partition("=")[0]
    assert named == key.partition(".")[0] or named.startswith(key)  # the section, where all of it is of no use
    assert about in str(found.value)


@pytest.mark.parametrize("search", ["true", "false"])
def test_whether_to_search_may_be_said_where_it_is_left_out_by_default(search):
    check_written("step-dpo/qwen2.5-7b-gsm8k", [f"measure.0.search={search}"])


def test_how_samples_are_drawn_is_of_no_use_where_none_are():
    check_written("micro/code", ["measure.0.samples=1"])
    with pytest.raises(AlignError, match=r"measure\.0\.temperature is of no use"):
        check_written("micro/code", ["measure.0.samples=1", "measure.0.temperature=0.3"])


def test_only_what_is_written_for_a_run_is_refused(tmp_path):
    """What a recipe extends, and what its file says for other engines, may be of no use."""
    check_written("micro/dice", ["rollouts.engine=vllm"])
    (tmp_path / "own.yaml").write_text("extends: micro/dice\nrollouts: {engine: vllm}\n")
    check_written(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("extends: micro/dice\nrollouts: {engine: vllm, batch: 8}\n")
    with pytest.raises(AlignError, match=r"rollouts\.batch is of no use"):
        check_written(str(tmp_path / "own.yaml"))


def test_a_key_that_one_variant_or_one_round_uses_is_of_use(tmp_path):
    text = "extends: micro/dice\nrounds: {quantile: 0.5}\nvariants: {one: {}, two: {rounds.scorers: [{name: implicit}, {name: length}]}}\n"
    (tmp_path / "own.yaml").write_text(text)
    check_written(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text(text.replace("two: {", "two: {rounds.quantile: 0.25, "))
    with pytest.raises(AlignError, match=r"^rounds\.quantile is of no use"):  # one has a scorer, the other a quantile of its own
        check_written(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text(text.replace("one: {}", "one: {rounds.quantile: 0.25}"))
    with pytest.raises(AlignError, match=r"variants\.one\.rounds\.quantile is of no use"):
        check_written(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("extends: micro/dice\nvariants: {one: {}, two: {training.simpo_gamma: 0.3}}\n")
    with pytest.raises(AlignError, match=r"variants\.two\.training\.simpo_gamma is of no use .* read by simpo"):
        check_written(str(tmp_path / "own.yaml"))
    rounds = "extends: micro/dice\ntraining: {simpo_gamma: 0.3}\nrounds: {count: 2, overrides: [{}, {training.loss_type: simpo}]}\n"
    (tmp_path / "own.yaml").write_text(rounds)
    check_written(str(tmp_path / "own.yaml"))


def test_the_command_refuses_before_anything_starts(tmp_path):
    done = align_here("run", "micro/dice", "rounds.quantile=0.5", f"training.output_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "rounds.quantile is of no use" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_seed_of_the_training_alone_is_that_of_the_run(tmp_path):
    assert recipes.load("dpo/zephyr-7b", ["training.seed=7"]).seeds == [7]
    with pytest.raises(AlignError, match=r"training\.seed is 7, but there is a run for each of seeds, \[1, 2\]"):
        recipes.load("dpo/zephyr-7b", ["training.seed=7", "seeds=[1, 2]"])
    with pytest.raises(AlignError, match="a variant cannot have variants or seeds"):
        recipes.load("micro/dice", ["variants={a: {training.seed: 7}}"])


def test_hyperparameters_are_those_of_the_registry():
    """Read from the files, as the registry has them; each that is not a loss's alone is a setting of the training."""
    assert {name: found for name, found in loss_names.hyperparameters().items() if name in LOSSES} == {
        name: frozenset(loss.hyperparameters) for name, loss in LOSSES.items() if ":" not in name
    }
    assert {key for keys in loss_names.hyperparameters().values() for key in keys} <= set(PreferenceConfig.__dataclass_fields__)
