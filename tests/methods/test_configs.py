"""The methods' configs: their defaults are the methods' files, and what they say is what the recipe says."""

from dataclasses import MISSING, fields

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, random_model
from peft import LoraConfig

from align import plans, recipes
from align.errors import AlignError
from align.methods import (
    ChainOfPreferenceConfig,
    ChainOfPreferenceTrainer,
    CodePreferenceConfig,
    CodePreferenceTrainer,
    DICEConfig,
    DICETrainer,
    IterativeReasoningConfig,
    IterativeReasoningTrainer,
    OnlineDPOConfig,
    OnlineDPOTrainer,
    RoundsConfig,
    RoundsTrainer,
    SelfRewardingConfig,
    SelfRewardingTrainer,
    SELMConfig,
    SELMTrainer,
    StepDPOConfig,
    StepDPOTrainer,
)
from align.methods.parts import StoredData
from align.models import load_model
from align.trainers import PreferenceConfig

CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "seed": 3}
ALL = {
    "dice": (DICETrainer, DICEConfig, {}, {"ref_model": "reference"}),
    "selm": (SELMTrainer, SELMConfig, {}, {"judge": {"name": "reward_model", "options": {"model": "r"}}}),
    "self-rewarding": (SelfRewardingTrainer, SelfRewardingConfig, {}, {}),
    "irpo": (IterativeReasoningTrainer, IterativeReasoningConfig, {"task": "gsm8k"}, {}),
    "online-dpo": (OnlineDPOTrainer, OnlineDPOConfig, {}, {}),
    "step-dpo": (StepDPOTrainer, StepDPOConfig, {"task": "gsm8k"}, {}),
    "cpo": (ChainOfPreferenceTrainer, ChainOfPreferenceConfig, {"task": "gsm8k"}, {}),
    "code": (CodePreferenceTrainer, CodePreferenceConfig, {}, {}),
}
DATA = {name: {"train_dataset": "offline.jsonl"} if name in ("dice", "selm") else {} for name in ALL}
SECTIONS = {
    "dice": {"model": {"name_or_path": "policy", "reference": "reference"}},
    "selm": {"rounds": {"scorers": [{"name": "reward_model", "options": {"model": "r"}}]}},
    "irpo": {"rounds": {"questions": "gsm8k"}}, "cpo": {"thoughts": {"task": "gsm8k"}},
    "step-dpo": {"thoughts": {"task": "gsm8k"}},
}  # fmt: skip


def trainer_of(name, tmp_path, **settings):
    trainer, config, own, parts = ALL[name]
    return trainer("policy", config(str(tmp_path / "run"), **CPU, **own, **settings), prompts="prompts.jsonl", **DATA[name], **parts)


def without_defaults(stage):
    """A stage whose training says nothing that a trainer does anyway."""
    plain = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(PreferenceConfig)}
    for kept in (stage.settings, stage.resources):
        if "training" in kept:
            kept["training"] = {key: value for key, value in kept["training"].items() if plain[key] != value}
    return stage


@pytest.mark.parametrize("name", ALL)
def test_a_trainer_plans_what_the_recipe_of_its_method_plans(name, tmp_path):
    source = tmp_path / "recipe.yaml"
    data = {"data": {"train": "offline.jsonl"}} if DATA[name] else {}
    content = {
        "extends": f"methods/{name}", "model": {"name_or_path": "policy"}, "rollouts": {"prompts": "prompts.jsonl"}, **data,
        "training": {"output_dir": str(tmp_path / "run"), **CPU}, "seeds": [3], **SECTIONS.get(name, {}),
    }  # fmt: skip
    source.write_text(yaml.safe_dump(content))
    [run] = plans.runs_of(recipes.load(source))
    assert [without_defaults(stage) for stage in trainer_of(name, tmp_path)._run.stages] == list(map(without_defaults, run.stages))


@pytest.mark.parametrize("name", ALL)
def test_defaults_are_those_of_the_methods_file(name):
    _, config, _, _ = ALL[name]
    content = recipes.read(recipes.RECIPES / f"methods/{name}.yaml")
    settings = config("out", **CPU)
    for key, value in content["training"].items():
        assert getattr(settings, key) == value, key
    assert settings.num_generations == content["rollouts"]["samples"]
    again = config("out", **CPU, learning_rate=1.0, num_generations=3, lr_scheduler_type=PreferenceConfig.lr_scheduler_type)
    sections = again.sections()
    assert (sections["training"]["learning_rate"], sections["rollouts"]["samples"]) == (1.0, 3)
    assert "lr_scheduler_type" not in sections["training"]  # what is a trainer's default anyway


@pytest.mark.parametrize("name", ALL)
def test_every_setting_is_a_key_of_recipes_and_reaches_it(name, tmp_path):
    known = {
        "rounds": 5, "round_prompts": "split", "round_reference": "start", "round_overrides": [{"training.beta": 0.7}], "num_generations": 5, "temperature": 0.3,
        "top_p": 0.4, "top_k": 7, "min_p": 0.01, "max_completion_length": 33, "stop": ["x"], "generation_batch_size": 11,
        "engine_kwargs": {"a": 1}, "chat": True, "system_prompt": "s", "max_prompts": 9, "processes": 4, "pairing": "closest" if name == "code" else "best_rest",
        "pairs_per_prompt": 3, "length_shaping": 0.5, "length_unit": "tokens", "replay": 0.25, "max_tokens_per_row": 77, "task": "svamp",
        "keep": 2, "keep_at_most": 4, "min_value": 0.5, "votes": 9, "judge_temperature": 0.9, "pairs_per_problem": 2, "min_gap": 0.25,
        "execution_seconds": 3.0, "isolation": "limits-only", "packages": ["numpy"], "vllm_server_base_url": "http://localhost:1",
    }  # fmt: skip
    _, config, _, _ = ALL[name]
    keys = {each.name: each.metadata["recipe"] for each in fields(config) if "recipe" in each.metadata}
    assert set(keys) <= set(known)
    settings = {setting: known[setting] for setting in keys}
    found = recipes.with_changes(config("out", **CPU, **settings).sections(), {}, "")
    for setting, key in keys.items():
        section = found
        for part in key.split("."):
            section = section[part]
        assert section == known[setting], key


def test_own_parts_and_whatever_else_a_recipe_has(tmp_path):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    settings = DICEConfig(
        str(tmp_path), **CPU, recipe={"rounds.filter.min_responses": 3}, use_vllm=True, model_init_kwargs={"dtype": torch.float32},
    )  # fmt: skip
    rule = __import__("own_pairs").first_over_last
    judge = ["implicit", {"name": "length", "weight": 0.5}]
    trainer = DICETrainer("p", settings, ref_model="r", prompts=["What?"], train_dataset="d", judge=judge, pair=rule, peft_config=lora)
    recipe = trainer.recipe
    assert [(each.name, each.weight) for each in recipe.rounds.scorers] == [("implicit", 1.0), ("length", 0.5)]
    assert (recipe.rounds.pairing, recipe.rounds.filter.min_responses) == ("own_pairs:first_over_last", 3)
    assert (recipe.model.dtype, recipe.rollouts.engine) == ("float32", "vllm")
    assert recipe.model.lora.model_dump() == {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj"]}
    plain = RoundsTrainer(
        "p", RoundsConfig(str(tmp_path), **CPU, recipe={"rounds.replay": 0.0}), prompts="p", judge="length", pair="best_rest"
    )
    assert (plain.recipe.rounds.scorers[0].name, plain.recipe.rounds.pairing) == ("length", "best_rest")


def test_what_a_recipe_says_of_the_model_stays_beside_the_arguments(tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    settings = CodePreferenceConfig(
        str(tmp_path), **CPU, recipe={"model.chat_template": str(template)}, model_init_kwargs={"attn_implementation": None}
    )
    model = CodePreferenceTrainer("p", settings, prompts="p").recipe.model
    assert (model.chat_template, model.attn_implementation, model.name_or_path) == (str(template), None, "p")


@pytest.mark.parametrize(
    "trainer, config, arguments, message",
    [
        (ChainOfPreferenceTrainer, ChainOfPreferenceConfig, {"judge": ["vote", "checker"]}, "judge has 2 entries"),
        (ChainOfPreferenceTrainer, ChainOfPreferenceConfig, {"pair": "best_worst"}, "pair is of no use with a search"),
        (CodePreferenceTrainer, CodePreferenceConfig, {"judge": "implicit"}, "judge is of no use where tests judge"),
    ],
)
def test_parts_that_a_method_has_no_use_for_are_refused(trainer, config, arguments, message, tmp_path):
    with pytest.raises(AlignError, match=message):
        trainer("p", config(str(tmp_path), **CPU), prompts="p", **arguments)


@pytest.mark.parametrize("settings", [{"vllm_server_base_url": "http://there", "generation_batch_size": 8}, {"beta_rejected_end": 0.2}])
def test_a_setting_that_nothing_depends_on_is_refused(tmp_path, settings):
    with pytest.raises(AlignError, match="is of no use in this recipe"):
        trainer_of("cpo", tmp_path, **settings)


@pytest.mark.parametrize("name", ["code", "cpo", "step-dpo"])
def test_settings_of_rounds_hold_where_a_method_has_none_of_its_own(name, tmp_path):
    trainer = trainer_of(name, tmp_path, round_overrides=[{"training.beta": 0.25}])
    [training] = [stage for stage in trainer._run.stages if stage.name.endswith("train")]
    assert training.settings["training"]["beta"] == 0.25
    with pytest.raises(AlignError, match=r"rounds\.prompts is of no use"):
        trainer_of(name, tmp_path, round_prompts="split")


def test_a_model_that_is_given_is_written_whole_and_anew(tmp_path):
    stored = StoredData(tmp_path)
    tokenizer = byte_level_tokenizer()
    (tmp_path / "given/model").mkdir(parents=True)  # of another model, or of an attempt that was ended
    (tmp_path / "given/model/config.json").write_text("{}")
    folder = stored.model(random_model(), tokenizer, "model")
    stored.write()
    assert load_model(folder, dtype="float32").config.hidden_size == 32
    assert not (tmp_path / "given/model.tmp").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": None}, "DICETrainer: rollouts"),
        ({"train_dataset": None}, "data.train is missing"),
        ({"pair": lambda count: []}, "pair: <lambda> stands within a function or class: put it into a module"),
        ({"peft_config": LoraConfig(use_rslora=True)}, "peft_config.use_rslora is True"),
        ({"model": torch.nn.Linear(1, 1)}, "model is a model: give its tokenizer, too, as processing_class"),
        ({"prompts": 3}, "prompts is int: expected a name, a path, a datasets.Dataset, or a list of records"),
        ({"recipe": {"rounds.replai": 0.1}}, "DICETrainer: rounds.replai is not a key: did you mean 'replay'"),
        ({"recipe": {"training.betta": 0.1}}, "training.betta is not a key"),
        ({"recipe": {"rounds.quantile": 0.5}}, "rounds.quantile is of no use in this recipe"),
        ({"recipe": {"seeds": [7]}}, "a trainer is one run: give args.seed"),
        ({"recipe": {"variants": {"a": {}}}}, "a trainer is one run: give args.seed"),
        ({"recipe": {"training.simpo_gamma": 0.5}}, "training.simpo_gamma is of no use in this recipe"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, change, message):
    arguments = {"model": "p", "ref_model": "r", "prompts": "prompts.jsonl", "train_dataset": "d", **change}
    settings = DICEConfig(str(tmp_path), **CPU, recipe=arguments.pop("recipe", {}))
    with pytest.raises(AlignError, match=message):
        DICETrainer(args=settings, **arguments)
