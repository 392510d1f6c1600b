"""Recipes: typed, overridable, with errors that name the key."""

import configparser
import dataclasses
import json
import os
import subprocess
import sys
import typing

import pytest
import yaml
from conftest import ROOT

from align import recipes
from align.errors import AlignError
from align.recipes.training_keys import training_types
from align.secrets import masked

BASE = {"model": {"name_or_path": "m"}, "data": {"train": "d"}, "training": {"learning_rate": "5e-7", "output_dir": "out"}}


def write(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", [name for name, _ in recipes.available()])
def test_every_recipe_that_comes_along_is_valid(name):
    recipe = recipes.load(name)
    assert recipe.description
    for variant in recipe.variants or [None]:
        recipes.variant(recipe, variant, 0)


@pytest.mark.parametrize("name", [name for name, _ in recipes.available()])
def test_every_recipe_becomes_stages_that_read_what_earlier_ones_made(name):
    from align.plans import runs_of
    from align.runs import Output

    for run in runs_of(recipes.load(name)):
        made = set()
        for stage in run.stages:
            assert {source.stage for source in stage.inputs.values() if isinstance(source, Output)} <= made
            made.add(stage.name)
        assert len(made) == len(run.stages) > 0


def test_numbers_written_as_text_and_overrides(tmp_path):
    recipe = recipes.load(write(tmp_path, BASE), ["training.beta=0.3", "data.limit=10", "training.loss_type=[ipo, sft]"])
    assert recipe.training == {"learning_rate": 5e-7, "output_dir": "out", "beta": 0.3, "loss_type": ["ipo", "sft"]}
    assert recipe.data.limit == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, r"modle is not a key: did you mean 'model'"),
        ({"model": {"name_or_path": "m", "dtpye": "float32"}}, r"model.dtpye is not a key: did you mean 'dtype'"),
        ({"model": {"name_or_path": "m", "lora": {"rr": 3}}}, r"model.lora.rr is not a key"),
        ({"training": {"lerning_rate": 1}}, r"training.lerning_rate is not a key: did you mean 'learning_rate'"),
        ({"training": {"learning_rate": "fast"}}, r"training.learning_rate is 'fast'"),
        ({"data": {}}, r"data.train is missing"),
        ({"variants": {"a": {"training.betta": 1}}}, r"variant a\): training.betta is not a key: did you mean 'beta'"),
        ({"model": {"name_or_path": "m", "dtype": "float31"}}, r"model.dtype is 'float31'"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(AlignError, match=message):
        recipes.load(write(tmp_path, {**BASE, **change}))


REST = {
    "dpo": ("data.train=d",), "dpo-3d": ("data.train=d",), "dice": ("data.train=d", "rollouts.prompts=p"),
    "selm": ("data.train=d", "rollouts.prompts=p"), "self-rewarding": ("rollouts.prompts=p",), "code": ("rollouts.prompts=p",),
    "irpo": ("rollouts.prompts=p", "rounds.questions=gsm8k"), "cpo": ("rollouts.prompts=p", "thoughts.task=gsm8k"),
    "step-dpo": ("rollouts.prompts=p", "thoughts.task=gsm8k"), "online-dpo": ("rollouts.prompts=p",),
}  # fmt: skip
"""What a recipe that extends a method says at least, besides its model."""
METHODS = sorted(path.stem for path in (recipes.RECIPES / recipes.METHODS).glob("*.yaml"))


def test_a_recipe_is_its_own_keys_over_those_of_what_it_extends(tmp_path):
    first = {"rollouts": {"samples": 4, "options": {"a": 1, "b": 2}}, "training": {"loss_type": ["sigmoid", "sft"]}, "seeds": [1, 2]}
    write(tmp_path, first).rename(tmp_path / "first.yaml")
    write(tmp_path, {"training": {"beta": 0.5}, "model": {"lora": {"r": 4}}}).rename(tmp_path / "second.yaml")
    own = {
        "extends": ["first", "second.yaml"],
        "rollouts": {"prompts": "p", "options": {"b": 3}},
        "model": {"name_or_path": "m", "lora": None},
    }
    recipe = recipes.load(write(tmp_path, own | {"training": {"loss_type": ["ipo"]}, "data": {"train": "d"}}), ["training.beta=0.7"])
    assert (recipe.rollouts.samples, recipe.rollouts.options, recipe.seeds) == (4, {"a": 1, "b": 3}, [1, 2])
    assert (recipe.training["loss_type"], recipe.training["beta"], recipe.model.lora) == (["ipo"], 0.7, None)


@pytest.mark.parametrize(
    "extends, message",
    [
        ("methods/dic", r"recipe.yaml: extends 'methods/dic': no such file next to it, and no such recipe: did you mean 'methods/dice'"),
        ("recipe", r"recipe.yaml: extends 'recipe', which extends recipe.yaml in turn"),
        (3, r"extends is 3: expected the name of a recipe, as methods/dice, or a list of names"),
    ],
)
def test_what_cannot_be_extended_is_named(tmp_path, extends, message):
    with pytest.raises(AlignError, match=message):
        recipes.load(write(tmp_path, {**BASE, "extends": extends}))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_extended_by_a_recipe_and_is_none_itself(name):
    assert f"methods/{name}" not in dict(recipes.available())
    raw = recipes.read(recipes.RECIPES / recipes.METHODS / f"{name}.yaml")
    assert raw["description"]
    assert not {"model", "data"} & set(raw)
    sources = [recipes.read_yaml(path) for path in recipes.RECIPES.glob("*/*.yaml")]
    assert name.startswith("dpo") or any(source.get("extends") == f"methods/{name}" for source in sources if isinstance(source, dict))
    recipe = recipes.load(recipes.RECIPES / f"methods/{name}.yaml", ["model.name_or_path=m", *REST[name]])
    assert {key: recipe.training[key] for key in raw["training"]} == raw["training"]


def test_every_folder_of_recipes_is_installed():
    """A wheel holds the folders that setup.cfg names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    installed = setup["options.data_files"]
    for folder in {path.parent for path in (ROOT / "recipes").glob("*/*.yaml")}:
        assert installed[f"share/align/recipes/{folder.name}"] == f"recipes/{folder.name}/*.yaml"


def test_recipe_that_is_not_there_names_the_nearest():
    with pytest.raises(AlignError, match="did you mean 'micro/dpo-3d'"):
        recipes.load("micro/dpo3d")


def test_variants_and_seeds_get_folders_of_their_own(tmp_path):
    recipe = recipes.load(write(tmp_path, {**BASE, "variants": {"sft": {"training.sft_weight": 1}}, "seeds": [1, 2]}))
    one = recipes.variant(recipe, "sft", 2)
    assert one.training["output_dir"] == "out/sft/seed-2"
    assert (one.training["sft_weight"], one.training["seed"]) == (1.0, 2)


def test_schema_file_is_up_to_date():
    """`align schema recipes/recipe.schema.json` writes it anew."""
    assert json.loads((recipes.RECIPES / "recipe.schema.json").read_text()) == recipes.json_schema()


def test_the_keys_of_training_are_the_fields_that_the_trainer_takes():
    """They are read from sources; here they are held against the class itself, with every type that a recipe's value is checked by."""
    from align.trainers.config import PreferenceConfig

    hints = typing.get_type_hints(PreferenceConfig)
    real = {field.name: hints[field.name] for field in dataclasses.fields(PreferenceConfig) if field.init}
    read = training_types()
    assert list(read) == list(real)
    assert {name: hint for name, hint in real.items() if recipes._is_plain(hint)} == {
        name: hint for name, hint in read.items() if recipes._is_plain(hint)
    }


@pytest.mark.parametrize("name", ["micro/dice", "micro/cpo", "micro/code", "micro/dpo-3d"])
def test_a_plan_is_shown_before_what_models_need_is_imported(name, tmp_path):
    """torch, transformers and trl take fifteen seconds to import: the trainer's configuration is built, and data read, after that."""
    code = "import sys\nimport align.training_check\nfrom align.cli import main\nheavy = ('torch', 'transformers', 'trl', 'datasets')\n"
    code += "align.training_check.check_settings = lambda recipe: [str([name for name in heavy if name in sys.modules])]\n"
    code += f"main(['run', {name!r}, '--dry-run'])\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


COMMANDS = (
    ["--help"], ["recipes"], ["list"], ["list", "losses"], ["list", "judges"], ["list", "suites"], ["show", "pairs.jsonl"],
    ["status", "run"], ["run", "micro/dice", "rounds.quantil=0.5"], ["run", "dpo/zephyr-7b", "rollouts.prompts=prompts.jsonl"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_only_looks_imports_nothing_that_takes_long(command, tmp_path):
    """Commands that a person waits for, and mistakes in a recipe, do without what takes half a second to import and more."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("model: {name_or_path: m}\ndata: {train: pairs.jsonl}\n")
    code = f"import sys\nfrom align.cli import main\ntry:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
    code += "heavy = ('torch', 'transformers', 'trl', 'datasets', 'scipy', 'pandas', 'matplotlib', 'vllm')\n"
    code += "print([name for name in heavy if name in sys.modules], end='')\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


SECRETS = {
    "hub_token": ("training.hub_token", "hf_" + "a1B2" * 9, "HF_TOKEN"),
    "hub_token that looks like none": ("training.hub_token", "my-secret", "HF_TOKEN"),
    "key of a server": ("rollouts.options.api_key", "k", "VLLM_API_KEY"),
    "list of keys": ("rollouts.options.api_keys", "k", "VLLM_API_KEY"),
    "password in an address": ("rollouts.url", "http://me:geheim@host:8000/v1", "VLLM_API_KEY"),
    "token in a name": ("training.run_name", "run ghp_" + "x1" * 18, "an environment variable"),
    "token in a path": ("data.train", "https://host/set?token=hf_" + "Z" * 34, "an environment variable"),
    "deep in a list": ("training.report_to", ["none", "sk-" + "q" * 40], "an environment variable"),
    "cloud key": ("description", "AKIA" + "ABCD2345" * 2, "an environment variable"),
    "private key": ("description", "-----BEGIN RSA PRIVATE KEY-----", "an environment variable"),
    "in a variant": ("variants.a", {"training.hub_token": "geheim"}, "HF_TOKEN"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(name, tmp_path):
    """What a recipe holds would stand in the run's folder, in manifests, job scripts, reports and trackers."""
    key, secret, instead = SECRETS[name]
    path = write(tmp_path, {**BASE, "rollouts": {"prompts": "p"}} if key.startswith("rollouts") else BASE)
    with pytest.raises(AlignError, match=f"holds a secret.*{instead} instead") as error:
        recipes.load(path, [f"{key}={json.dumps(secret)}"])
    for word in ("geheim", "hf_", "ghp_", "sk-", "AKIA", "my-secret"):
        assert word not in str(error.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.hub_token", None), ("training.hub_model_id", "sk-learn/model"), ("training.run_name", "token efficiency, hf_run"),
        ("data.train", "https://host:8000/data.jsonl"), ("description", "a password manager's secrets; see me@example.org"),
        ("data.columns", {"prompt": "token"}), ("training.run_name", "bearer of news"), ("model.name_or_path", "owner/secret-keeper-7b"),
    ],
)  # fmt: skip
def test_what_only_speaks_of_secrets_is_none(key, value, tmp_path):
    recipes.load(write(tmp_path, BASE), [f"{key}={json.dumps(value)}"])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("hf_" + "a1" * 17, ""), ("sk-proj-" + "x_1" * 12, ""), ("AKIA" + "ABCD2345" * 2, ""), ("wandb_v1_" + "k" * 30, ""), ("github_pat_" + "q" * 40, ""),
        ("WANDB_API_KEY=" + "0a1b2c3d" * 5, "WANDB_API_KEY="), ("aws_secret_access_key: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCY'", "aws_secret_access_key: '"),
        ('{"hub_token": "geheim123"}', '{"hub_token": "'), ("https://me:geheim@host/v1", "https://"),
        ("-----BEGIN RSA PRIVATE KEY-----\ngeheim\n-----END RSA PRIVATE KEY-----", ""),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked_in_any_text(text, kept):
    shown = masked(f"before {text} after")
    assert shown.startswith(f"before {kept}***")
    assert shown.endswith(" after")
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hub_token: null",
        "hub_token=None",
        "pad_token: <pad>",
        "max_new_tokens: 512",
        "revision: " + "0a1b2c3d" * 5,
        "a secret sauce",
        "sk-learn",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


def test_an_override_that_is_none_is_named_without_its_secret(tmp_path):
    with pytest.raises(AlignError) as error:
        recipes.load(write(tmp_path, BASE), ["training.hub_token:hf_" + "Z" * 34])
    assert "hf_Z" not in str(error.value)


def test_a_report_masks_what_an_older_recipe_held():
    assert masked("hub_token: hf_" + "a" * 34 + "\nurl: http://u:p@h/") == "hub_token: ***\nurl: http://***@h/"
