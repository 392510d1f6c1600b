"""The reference is what the policy was: of models changed in memory, of every adapter, and of trainings that are resumed."""

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import align, byte_level_tokenizer, random_model
from datasets import Dataset
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import TrainerCallback

from align.errors import AlignError
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.guard import Sample

PAIRS = [
    {"prompt": f"What is {a} plus {b}?\n", "chosen": f"It is {a + b}.", "rejected": f"It is {a * b + 7}, of course."}
    for a in range(4)
    for b in range(2)
]
LINEAR = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model on disk that every model in memory here is called after."""
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def load(folder):
    return lambda: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def make(settings, tokenizer):
    """A trainer of three steps."""

    def trainer(model, peft_config=None, ref_model=None, data=None, callbacks=None, eval_dataset=None, **changes):
        args = {**settings, "learning_rate": 1e-3, "logging_steps": 1, "max_steps": 3, "per_device_train_batch_size": 4, **changes}
        return PreferenceTrainer(
            model, ref_model, PreferenceConfig(**args), train_dataset=data or Dataset.from_list(PAIRS), eval_dataset=eval_dataset,
            processing_class=tokenizer, peft_config=peft_config, callbacks=callbacks,
        )  # fmt: skip

    return trainer


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def jitter(model, std=0.05):
    """Change every trained weight."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * std)
    return model


def log_probs(model, tokenizer):
    """Of the pairs' responses, chosen and rejected in turn, by plain transformers: one row, one call."""
    sums = []
    for pair in PAIRS:
        for side in ("chosen", "rejected"):
            prompt = tokenizer(pair["prompt"])["input_ids"]
            row = torch.tensor([tokenizer(pair["prompt"] + pair[side])["input_ids"] + [tokenizer.eos_token_id]])
            with torch.no_grad():
                logits = model(input_ids=row).logits.float().log_softmax(-1)
            scored = logits[0, :-1].gather(-1, row[0, 1:, None])[:, 0]
            sums.append(scored[len(prompt) - 1 :].sum().item())
    return sums


def reference_sums(trainer):
    """The reference's log-probs of the same responses, as the trainer has them."""
    sums = []
    for record in trainer.train_dataset:
        chosen, rejected = trainer.compute_ref_log_probs(None, trainer._collator([record]))
        sums += [chosen.item(), rejected.item()]
    return sums


def quick(values, names):
    """Test parameters, of which those that are not named are slow."""
    return [pytest.param(*value, marks=() if value[0] in names else pytest.mark.slow) for value in values]


# Models changed in memory: each keeps the name of the model on disk


def perturbed(model):
    return jitter(model)


def adapter_merged(model):
    return jitter(get_peft_model(model, LoraConfig(**LINEAR))).merge_and_unload().requires_grad_(True)


def resized(model):
    model.resize_token_embeddings(430)
    return jitter(model, 0.01)


def tied_anew(model):
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    return model


def layer_removed(model):
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    return model


def adapter_of_transformers(model):
    model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    return model


def half(model):
    return jitter(model).to(torch.bfloat16)


CHANGES = (perturbed, adapter_merged, resized, tied_anew, layer_removed, adapter_of_transformers, half)


@pytest.mark.parametrize(
    "change", quick([(change,) for change in CHANGES], {perturbed, adapter_merged, resized}), ids=lambda change: change.__name__
)
@pytest.mark.slow
def test_a_model_changed_in_memory_is_its_own_reference(change, load, make, tokenizer):
    model = change(load())
    expected = log_probs(model, tokenizer)
    trainer = make(model)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert logged(trainer, "rewards/margins")[-1] > 0
    assert log_probs(model, tokenizer) != pytest.approx(expected, abs=0.01), "nothing was trained, so nothing is shown"
    assert reference_sums(trainer) == pytest.approx(expected, abs=1e-4 if change is not half else 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("precompute", [False, True])
def test_the_copy_is_of_the_model_that_a_first_training_left(precompute, load, make, tmp_path):
    model = load()
    cache = {"precompute_ref_log_probs": precompute, "reference_cache_dir": str(tmp_path / "cache")}
    for _ in range(2):
        trainer = make(model, **cache)
        trainer.train()
        assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
        assert logged(trainer, "loss")[-1] < 0.69


def test_a_reference_without_use_is_not_made(load, make):
    assert make(load(), loss_type=["simpo"]).ref_model is None


# Adapters


PEFT = {
    "lora": LoraConfig(**LINEAR),
    "dora": LoraConfig(**LINEAR, use_dora=True),
    "pissa": LoraConfig(**LINEAR, init_lora_weights="pissa"),
    "pissa_niter_4": LoraConfig(**LINEAR, init_lora_weights="pissa_niter_4"),
    "olora": LoraConfig(**LINEAR, init_lora_weights="olora"),
    "random": LoraConfig(**LINEAR, init_lora_weights=False),
    "modules_to_save": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"], task_type="CAUSAL_LM"),
    "token_indices": LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5, 6, 7], task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "adalora": AdaLoraConfig(target_modules=["q_proj"], total_step=3, tinit=0, tfinal=1, task_type="CAUSAL_LM"),
}


def new_config(name):
    return type(PEFT[name])(**{key: value for key, value in PEFT[name].__dict__.items() if key in _arguments(PEFT[name])})


def _arguments(config):
    return {field.name for field in dataclasses.fields(config) if field.init and field.name not in ("peft_type", "peft_version")}


QUICK = {("pissa", "config"), ("olora", "model")}
ADAPTERS = [
    pytest.param(name, given, marks=() if (name, given) in QUICK else pytest.mark.slow) for name in PEFT for given in ("config", "model")
]


@pytest.mark.parametrize(("name", "given"), ADAPTERS)
@pytest.mark.slow
def test_a_new_adapter_has_the_model_as_it_was_for_reference(name, given, load, make, tokenizer):
    before = log_probs(load(), tokenizer)
    if given == "config":
        trainer = make(load(), peft_config=new_config(name))
    else:
        model = get_peft_model(load(), new_config(name))
        before = log_probs(model, tokenizer)
        trainer = make(model)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    if (name, given) != ("random", "config"):
        assert reference_sums(trainer) == pytest.approx(before, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "dora", "modules_to_save", "ia3"])
def test_a_trained_adapter_is_the_reference_as_it_is_given(name, load, make, tokenizer, tmp_path):
    jitter(get_peft_model(load(), new_config(name))).save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(load(), tmp_path / "adapter", is_trainable=True)
    before = log_probs(model, tokenizer)
    assert before != pytest.approx(log_probs(load(), tokenizer), abs=0.01)
    trainer = make(model)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert log_probs(trainer.model, tokenizer) != pytest.approx(before, abs=0.01)
    assert reference_sums(trainer) == pytest.approx(before, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_merged_and_a_new_one_on_top(load, make, tokenizer):
    model = adapter_merged(load())
    before = log_probs(model, tokenizer)
    trainer = make(model, peft_config=LoraConfig(**LINEAR))
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert reference_sums(trainer) == pytest.approx(before, abs=1e-4)


def named(model, names, active):
    for number, name in enumerate(names):
        torch.manual_seed(number)
        config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(model, config, adapter_name=name) if number == 0 else (model.add_adapter(name, config), model)[1]
    model.base_model.set_adapter(active)
    model.active_adapter = active if isinstance(active, str) else active[0]
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "active"), [(["mine"], "mine"), (["default", "b"], "b"), (["ref"], "ref"), (["default", "b"], ["default", "b"])], ids=str
)
def test_adapters_of_any_name_are_their_own_reference(names, active, load, make, tokenizer):
    model = named(load(), names, active)
    before = log_probs(model, tokenizer)
    trainer = make(model)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert logged(trainer, "loss")[-1] < 0.69
    assert reference_sums(trainer) == pytest.approx(before, abs=1e-4)


def bias(model):
    return get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, bias="all", task_type="CAUSAL_LM"))


def unfrozen(model):
    model = get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"))
    model.get_base_model().lm_head.weight.requires_grad_(True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("change", [bias, unfrozen])
def test_weights_trained_besides_an_adapter_do_not_move_the_reference(change, make, tokenizer):
    model = change(random_model("gpt2"))
    before = log_probs(model, tokenizer)
    trainer = make(model)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in trainer.ref_model.parameters()}
    assert len(shared) == sum(not p.requires_grad for p in model.parameters()), "the frozen base is there twice"
    trainer.train()
    assert reference_sums(trainer) == pytest.approx(before, abs=1e-4)
    assert log_probs(trainer.model, tokenizer) != pytest.approx(before, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_have_the_model_without_them_for_reference_and_say_so(config, load, make, tokenizer, caplog):
    before = log_probs(load(), tokenizer)
    trainer = make(load(), peft_config=config(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "virtual tokens put the policy" in caplog.text
    assert reference_sums(trainer) == pytest.approx(before, abs=1e-4)
    given = make(get_peft_model(load(), config(task_type="CAUSAL_LM", num_virtual_tokens=4)))
    given.train()
    assert logged(given, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)


# The guard


def test_a_model_changed_after_the_trainer_was_made_is_refused(load, make):
    trainer = make(load())
    before = {name: p.clone() for name, p in jitter(trainer.model).named_parameters()}
    with pytest.raises(AlignError, match=r"before the first step the policy and its reference differ by .* nats per token"):
        trainer.train()
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
        {"disable_dropout": False},
        {"max_tokens_per_batch": 200},
        {"precompute_ref_log_probs": True},
    ],
    ids=str,
)
def test_the_guard_lets_right_trainings_pass_and_stops_wrong_ones(changes, load, make, tmp_path):
    changes = {**changes, "reference_cache_dir": str(tmp_path)}
    right = make(jitter(load()), **changes)
    right.train()
    wrong = make(load(), **changes)
    jitter(wrong.model)
    with pytest.raises(AlignError, match="the policy and its reference differ"):
        wrong.train()


@pytest.mark.slow
def test_the_guard_is_off_where_another_reference_is_meant(load, make):
    make(jitter(load()), ref_model=load()).train()
    trainer = make(load(), check_reference=False)
    jitter(trainer.model)
    trainer.train()


@pytest.mark.slow
def test_a_wrong_cache_of_log_probs_is_found(load, make, tmp_path):
    changes = {"precompute_ref_log_probs": True, "reference_cache_dir": str(tmp_path)}
    make(load(), **changes)
    trainer = make(jitter(load()), **changes)
    first, second = sorted(tmp_path.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    second.write_bytes(first.read_bytes())  # one reference's log-probs under another's name
    trainer = make(jitter(load()), **changes)
    with pytest.raises(AlignError, match="the policy and its reference differ"):
        trainer.train()


@pytest.mark.slow
def test_log_probs_that_the_data_bring_along_are_held_against_the_reference(load, make, tokenizer):
    sums = log_probs(load(), tokenizer)
    rows = [{**p, "ref_chosen_logps": c, "ref_rejected_logps": r} for p, c, r in zip(PAIRS, sums[::2], sums[1::2], strict=True)]
    make(load(), data=Dataset.from_list(rows)).train()
    rows[1]["ref_rejected_logps"] += 3.0
    with pytest.raises(AlignError, match="record 1: the column `ref_rejected_logps` says"):
        make(load(), data=Dataset.from_list(rows)).train()


@pytest.mark.slow
def test_an_adapter_called_ref_is_taken_for_the_reference_only_if_it_is_meant(load, make):
    two = lambda: named(load(), ["default", "ref"], "default")
    with pytest.raises(AlignError, match=r"the adapter 'ref' that the model brought along \(model.delete_adapter\('ref'\)"):
        make(two()).train()
    make(two(), check_reference=False).train()


def test_weights_unfrozen_too_late_are_refused(load, make):
    trainer = make(load(), peft_config=LoraConfig(**LINEAR))
    trainer.model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(AlignError, match=r"lm_head.weight is trained, which does not belong to the adapter"):
        trainer.train()


def test_a_model_without_a_weight_to_train_is_refused(load, make):
    merged = jitter(get_peft_model(load(), LoraConfig(**LINEAR))).merge_and_unload()
    with pytest.raises(AlignError, match=r"no weight of the model is to be trained.*requires_grad_\(True\)"):
        make(merged).train()


@pytest.mark.slow
def test_a_second_training_of_one_trainer_goes_on_from_the_first(load, make):
    trainer = make(load())
    trainer.train()
    trainer.train()
    assert logged(trainer, "loss")[0] < 0.69


def test_samples_are_known_again_by_their_records(tmp_path):
    sample = Sample(["aa", "bb"], [[-1.0, -2.0], [-3.0]])
    sample.write(tmp_path)
    assert Sample.read(tmp_path) == sample
    assert sample.distance(Sample(["bb", "cc"], [[-3.5], [-1.0]])) == 0.5
    assert sample.distance(Sample(["cc"], [[-1.0]])) is None
    assert Sample.read(tmp_path / "elsewhere") is None


# Precomputed log-probs


@pytest.mark.slow
def test_models_of_one_name_share_no_precomputed_log_probs(load, make, tmp_path):
    """Neither those whose weights differ, nor those whose weights are alike and which compute otherwise."""
    cache = {"precompute_ref_log_probs": True, "reference_cache_dir": str(tmp_path)}

    def scaled(alpha):
        torch.manual_seed(0)
        return get_peft_model(load(), LoraConfig(**LINEAR, init_lora_weights=False, lora_alpha=alpha))

    def based(theta):
        model = load()
        model.config.rope_parameters["rope_theta"] = theta
        return type(model)._from_config(model.config).requires_grad_(True), model

    for model in (load(), jitter(load()), load().to(torch.bfloat16), scaled(8), scaled(16)):
        make(model, **cache)
    for theta in (10_000.0, 500.0):
        fresh, stored = based(theta)
        fresh.load_state_dict(stored.state_dict())
        make(fresh, **cache)
    assert len(list(tmp_path.glob("*.npz"))) == 6  # the first of the last two is the first of all
    make(load(), **cache)
    assert len(list(tmp_path.glob("*.npz"))) == 6


# Resuming


class Stop(TrainerCallback):
    """Ends a training after a step, as a kill would, with the checkpoint written."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def lora_on_disk(load, folder, **changes):
    path = folder / "adapter"
    if not path.exists():
        jitter(get_peft_model(load(), LoraConfig(**LINEAR, **changes))).save_pretrained(path)
    return PeftModel.from_pretrained(load(), path, is_trainable=True)


def with_own_ref(load, folder):
    model = lora_on_disk(load, folder)
    model.load_adapter(folder / "adapter", adapter_name="ref")
    return model


STARTS = {
    "lora": lambda load, folder: (load(), LoraConfig(**LINEAR)),
    "dora": lambda load, folder: (load(), LoraConfig(**LINEAR, use_dora=True)),
    "pissa": lambda load, folder: (load(), LoraConfig(**LINEAR, init_lora_weights="pissa")),
    "modules_to_save": lambda load, folder: (load(), new_config("modules_to_save")),
    "prompt": lambda load, folder: (load(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "new peft model": lambda load, folder: (get_peft_model(load(), LoraConfig(**LINEAR)), None),
    "from disk": lambda load, folder: (lora_on_disk(load, folder), None),
    "dora from disk": lambda load, folder: (lora_on_disk(load, folder, use_dora=True), None),
    "own ref": lambda load, folder: (with_own_ref(load, folder), None),
    "several": lambda load, folder: (named(load(), ["default", "b", "c"], "b"), None),
    "one, not default": lambda load, folder: (named(load(), ["mine"], "mine"), None),
    "both active": lambda load, folder: (named(load(), ["default", "b"], ["default", "b"]), None),
    "merged": lambda load, folder: (adapter_merged(load()), None),
}
PRECOMPUTED = ("from disk", "lora", "merged")


RESUMED = [*((name, False) for name in STARTS), *((name, True) for name in PRECOMPUTED)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precompute"), quick(RESUMED, {"from disk"}))
def test_a_resumed_training_ends_where_an_undisturbed_one_does(name, precompute, load, make, tmp_path):
    changes = {
        "max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 5, "learning_rate": 5e-3,
        "precompute_ref_log_probs": precompute, "reference_cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip

    def trainer(out, callbacks=None):
        torch.manual_seed(0)
        model, config = STARTS[name](load, tmp_path)
        return make(model, config, callbacks=callbacks, output_dir=str(tmp_path / out), **changes)

    undisturbed = trainer("whole")
    undisturbed.train()
    trainer("part", [Stop(5)]).train()
    resumed = trainer("part")
    resumed.train(resume_from_checkpoint=True)
    for key in ("rewards/margins", "rewards/chosen", "loss"):
        assert logged(resumed, key) == pytest.approx(logged(undisturbed, key), abs=1e-6), key
    margins = logged(undisturbed, "rewards/margins")
    assert abs(margins[-1] - margins[0]) > (0.001 if name == "prompt" else 0.05), "nothing was learned, so nothing is shown"
    weights = dict(undisturbed.model.named_parameters())
    assert all(torch.allclose(parameter, weights[key], atol=1e-6) for key, parameter in resumed.model.named_parameters())


@pytest.mark.slow
def test_a_reference_that_follows_the_policy_is_resumed_too(load, make, tmp_path):
    changes = {
        "max_steps": 9, "save_strategy": "steps", "save_steps": 5, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5,
    }  # fmt: skip
    undisturbed = make(load(), output_dir=str(tmp_path / "whole"), **changes)
    undisturbed.train()
    make(load(), callbacks=[Stop(5)], output_dir=str(tmp_path / "part"), **changes).train()
    resumed = make(load(), output_dir=str(tmp_path / "part"), **changes)
    resumed.train(resume_from_checkpoint=True)
    assert logged(resumed, "rewards/margins") == pytest.approx(logged(undisturbed, "rewards/margins"), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "adapter", "precomputed"])
def test_going_on_with_the_trained_model_for_reference_is_refused(form, load, make, tmp_path):
    """Whoever passes the checkpoint's model as the model would have the trained one for reference."""
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "precompute_ref_log_probs": form == "precomputed"}
    changes |= {"learning_rate": 1e-2, "reference_cache_dir": str(tmp_path / "cache")}
    start = (lambda: load()) if form == "full" else (lambda: lora_on_disk(load, tmp_path))
    make(start(), callbacks=[Stop(2)], **changes).train()
    checkpoint = tmp_path / "out/checkpoint-2"
    if form == "full":
        trained = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    else:
        trained = PeftModel.from_pretrained(load(), checkpoint, is_trainable=True)
    if form == "adapter":  # `ref` is loaded from the checkpoint: the training goes on as it was
        make(trained, **changes).train(resume_from_checkpoint=True)
        return
    with pytest.raises(AlignError, match=r"checkpoint-2' was trained against another reference"):
        make(trained, **changes).train(resume_from_checkpoint=True)
    make(start(), **changes).train(resume_from_checkpoint=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(**{**LINEAR, "r": 4}), r"of another form than the model's adapter 'default'.*expected \(4, "),
        (
            LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
            r"which the model's adapter 'default' has not: take its target modules",
        ),
        (LoraConfig(**LINEAR, use_dora=True), "its configuration is another"),
    ],
    ids=["rank", "targets", "dora"],
)
def test_an_adapter_of_another_form_is_not_resumed(config, message, load, make):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make(load(), LoraConfig(**LINEAR), callbacks=[Stop(2)], **changes).train()
    with pytest.raises(AlignError, match=message):
        make(load(), config, **changes).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_an_encoder_of_virtual_tokens_is_not_resumed_without_its_weights(load, make):
    config = lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16)
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make(load(), config(), callbacks=[Stop(2)], **changes).train()
    with pytest.raises(AlignError, match="PEFT saves the tokens alone, so that their training cannot go on"):
        make(load(), config(), **changes).train(resume_from_checkpoint=True)


def test_a_missing_adapter_is_named(load, make, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make(named(load(), ["mine"], "mine"), callbacks=[Stop(2)], **changes).train()
    with pytest.raises(AlignError, match="no weights of the adapter 'default', which the model has: it has 'mine'"):
        make(named(load(), ["default"], "default"), **changes).train(resume_from_checkpoint=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "mine"])
def test_the_best_adapter_is_loaded_at_the_end(name, load, make, tokenizer):
    trainer = make(
        named(load(), [name], name), eval_dataset=Dataset.from_list(PAIRS[:4]), load_best_model_at_end=True, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, metric_for_best_model="eval_rewards/margins", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    margins = logged(trainer, "eval_rewards/margins")
    assert margins[0] == min(margins) < margins[-1]
    assert trainer.evaluate()["eval_rewards/margins"] == pytest.approx(margins[0], abs=1e-6)


# Evaluation sets


@pytest.mark.slow
def test_metrics_of_several_evaluation_sets_carry_their_names(load, make):
    sets = {"easy": Dataset.from_list(PAIRS[:3]), "hard": Dataset.from_list(PAIRS[3:])}
    trainer = make(load(), eval_dataset=sets, eval_strategy="steps", eval_steps=3)
    trainer.train()
    together = trainer.evaluate()
    assert "eval_rewards/margins" not in together
    for name, data in sets.items():
        alone = make(load(), ref_model=load(), eval_dataset=data)
        alone.model.load_state_dict(trainer.model.state_dict())
        expected = alone.evaluate()
        for key in ("rewards/margins", "logps/chosen", "entropy", "loss"):
            assert together[f"eval_{name}_{key}"] == pytest.approx(expected[f"eval_{key}"], abs=1e-5), key
    assert logged(trainer, "eval_easy_rewards/margins") != logged(trainer, "eval_hard_rewards/margins")
    trainer.predict(trainer.eval_dataset["hard"])  # leaves nothing behind in the next one's means
    assert trainer.evaluate()["eval_easy_rewards/margins"] == pytest.approx(together["eval_easy_rewards/margins"], abs=1e-6)
    assert "test_rewards/margins" in trainer.evaluate(Dataset.from_list(PAIRS[:2]), metric_key_prefix="test")


# Recipes


@pytest.fixture
def recipe(folder, tmp_path, load):
    """Trains a new adapter on a model that an adapter was trained for before."""
    jitter(get_peft_model(load(), LoraConfig(**LINEAR))).save_pretrained(tmp_path / "first")
    byte_level_tokenizer().save_pretrained(tmp_path / "first")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    content = {
        "model": {"name_or_path": str(tmp_path / "first"), "dtype": "float32", "lora": {"r": 4, "dropout": 0.0}},
        "data": {"train": str(tmp_path / "pairs.jsonl")},
        "training": {
            "output_dir": str(tmp_path / "out"), "num_train_epochs": 3, "per_device_train_batch_size": 2, "learning_rate": 5e-3, "bf16": False,
            "report_to": "none", "logging_steps": 1, "save_strategy": "steps", "save_steps": 5, "monitor_3d": False, "gradient_checkpointing": False,
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    return tmp_path / "recipe.yaml"


def curve(folder, step=12):
    history = json.loads((folder / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]
    return [entry["rewards/margins"] for entry in history if "rewards/margins" in entry], [e["loss"] for e in history if "loss" in e]


@pytest.mark.slow
def test_an_adapter_on_an_adapter_is_trained_saved_and_resumed_by_recipe(recipe, folder, tmp_path, tokenizer, load):
    start = log_probs(PeftModel.from_pretrained(load(), tmp_path / "first"), tokenizer)
    done = align("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    margins, losses = curve(tmp_path / "out")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    base = Path(json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"])
    whole = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert log_probs(whole, tokenizer) == pytest.approx(start, abs=1e-4)  # the new adapter's base has the first one in it
    trained = log_probs(PeftModel.from_pretrained(whole, tmp_path / "out"), tokenizer)
    assert trained[0] - trained[1] - (start[0] - start[1]) > 0.1
    for name in ("checkpoint-10", "checkpoint-12"):
        subprocess.run(["rm", "-r", tmp_path / "out" / name], check=True)
    done = align("train", recipe, "training.resume_from_checkpoint=true")
    assert done.returncode == 0, done.stderr[-3000:]
    again, _ = curve(tmp_path / "out")
    assert again == pytest.approx(margins, abs=1e-6)
    done = align("run", recipe, f"training.output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-3000:]
    model = next(path.parent for path in (tmp_path / "run").rglob("model/config.json"))
    staged = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert log_probs(staged, tokenizer) == pytest.approx(trained, abs=1e-3)


KILLED = """
import os, signal, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from datasets import load_dataset
from align.trainers import PreferenceConfig, PreferenceTrainer

folder, out, kill = sys.argv[1:]

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)

base = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype="float32")
model = PeftModel.from_pretrained(base, f"{folder}/adapter", is_trainable=True)
args = PreferenceConfig(
    out, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, save_strategy="steps", save_steps=3, num_train_epochs=3,
    per_device_train_batch_size=2, learning_rate=5e-3, logging_steps=1, monitor_3d=False, disable_tqdm=True,
)
trainer = PreferenceTrainer(
    model, None, args, train_dataset=load_dataset("json", data_files=f"{folder}/pairs.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"), callbacks=[Kill()],
)
trainer.train(resume_from_checkpoint=True)
"""


@pytest.mark.slow
def test_a_killed_training_of_an_adapter_ends_as_an_undisturbed_one(load, tmp_path):
    load().save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    jitter(get_peft_model(load(), LoraConfig(**LINEAR))).save_pretrained(tmp_path / "adapter")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (tmp_path / "train.py").write_text(KILLED)

    def run(out, kill):
        command = [sys.executable, tmp_path / "train.py", tmp_path, tmp_path / out, str(kill)]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)

    assert run("whole", -1).returncode == 0
    assert run("part", 4).returncode == -9
    assert run("part", 8).returncode == -9
    last = run("part", -1)
    assert last.returncode == 0, last.stderr[-3000:]
    assert curve(tmp_path / "part")[0] == pytest.approx(curve(tmp_path / "whole")[0], abs=1e-6)
    assert abs(curve(tmp_path / "whole")[0][-1]) > 0.05


def test_under_fsdp_a_model_may_be_given_by_its_name(folder, make, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert make(str(folder)).args.precompute_ref_log_probs
