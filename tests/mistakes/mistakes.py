"""What users do wrong, and what the message must hold: what is wrong, where, what was expected, and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAIRS = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " Who knows, and who cares?"} for i in range(30)]
RECIPE = """\
model:
  name_or_path: ./model
  dtype: float32
data:
  train: pairs.jsonl
training:
  output_dir: out
  max_steps: 2
  bf16: false
  report_to: none
  max_length: 64
"""


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        command: words after `align`.
        words: of the message.
        files: written beside a good recipe, its data and its model, or over them.
        spoil: changes the folder, or the process (monkeypatch), further.
        status: the exit status.
    """

    command: list[str]
    words: tuple[str, ...]
    files: dict[str, str | bytes] = field(default_factory=dict)
    spoil: Callable[..., None] | None = None
    status: int = 2


def lines(*records: object) -> str:
    """JSON lines."""
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def _dry(*words: str) -> list[str]:
    return ["run", "recipe.yaml", "--dry-run", *words]


def _setting(override: str, *words: str) -> Mistake:
    return Mistake(_dry(override), words)


def _recipe(content: str | bytes, *words: str) -> Mistake:
    return Mistake(_dry(), ("recipe.yaml", *words), {"recipe.yaml": content})


def _data(content: str | bytes, *words: str) -> Mistake:
    return Mistake(_dry(), ("pairs.jsonl", *words), {"pairs.jsonl": content})


def _file(name: str, content: str | bytes, *words: str) -> Mistake:
    return Mistake(_dry(f"data.train={name}"), (name, *words), {name: content})


COMMANDS = {
    "a misspelt command": Mistake(["rnu"], ("invalid choice: 'rnu'", "did you mean 'run'?")),
    "no command": Mistake([], ("required: COMMAND", "align --help")),
    "a misspelt option": Mistake(["run", "recipe.yaml", "--dri-run"], ("--dri-run", "did you mean '--dry-run'?", "align run --help")),
    "a word too many": Mistake(["status", "out", "more"], ("unrecognized arguments: more",)),
    "a number that is none": Mistake(["run", "recipe.yaml", "--jobs", "x"], ("--jobs", "'x'")),
    "no jobs": Mistake(["run", "recipe.yaml", "--jobs", "0"], ("--jobs 0: expected 1 or more",)),
    "an unknown kind": Mistake(["list", "loses"], ("'loses'", "did you mean 'losses'?")),
    "an override without a value": Mistake(_dry("training.beta"), ("'training.beta'", "expected key.path=value")),
    "an override through a value": Mistake(_dry("model.dtype.x=1"), ("dtype is not a section",)),
    "an unknown stage": Mistake(_dry("--until", "trian"), ("--until trian", "did you mean 'train'?")),
    "a shard that is none": Mistake(["run", "recipe.yaml", "--shard", "3"], ("shard '3'", "expected INDEX/COUNT", "such as 3/16")),
    "a shard beyond the last": Mistake(["run", "recipe.yaml", "--shard", "3/2"], ("shard '3/2'", "from 0 to COUNT")),
    "a recipe that is not there": Mistake(["run", "recipy.yaml"], ("recipy.yaml: no such recipe", "did you mean 'recipe.yaml'?")),
    "a recipe in no folder": Mistake(["run", "no/recipe.yaml"], ("no such recipe", "there is no folder no")),
    "a misspelt name": Mistake(["run", "micro/dpo3d"], ("no such recipe", "did you mean 'micro/dpo-3d'?")),
    "a folder for a recipe": Mistake(["run", "model"], ("model: it is a folder", "expected a recipe")),
    "data for a recipe": Mistake(["run", "pairs.jsonl"], ("pairs.jsonl: it is a file of data", "data.train")),
    "train of a method with stages": Mistake(["train", "micro/dice"], ("`align run` carries it through",)),
    "status of nothing": Mistake(["status", "nowhere"], ("nowhere", "no run in this folder")),
    "report of nothing": Mistake(["report", "nowhere"], ("nowhere", "no run in this folder")),
    "a rehearsal side by side": Mistake(["run", "recipe.yaml", "--rehearse", "--jobs", "2"], ("--rehearse goes with --until alone",)),
    "a launch without a configuration": Mistake(
        ["launch", "recipe.yaml"], ("resources.accelerate is missing", "resources.accelerate=zero3")
    ),
    "an unknown GPU": Mistake(["estimate", "recipe.yaml", "--gpu", "h1000"], ("h1000", "did you mean 'h100'?")),
}

RECIPES = {
    "no UTF-8": _recipe(RECIPE.encode("utf-16"), "it is no UTF-8 text", "save it as UTF-8"),
    "Latin-1": _recipe(("# für uns\n" + RECIPE).encode("latin-1"), "it is no UTF-8 text (byte 3)"),
    "bytes": _recipe(b"\x00\x01\x02\xff", "it is no UTF-8 text"),
    "nothing in it": _recipe("", "expected keys such as `model` and `data`", "it is empty"),
    "a list": _recipe("- a\n- b\n", "expected keys such as `model`", "found list"),
    "a text": _recipe("hello", "expected keys", "found str"),
    "a tab": _recipe(RECIPE.replace("  train", "\ttrain"), "line 5", "YAML wants blanks"),
    "no blank after a colon": _recipe(
        RECIPE.replace("train: pairs", "train:pairs"), "'train:pairs.jsonl'", "is there a blank after the colon?"
    ),
    "a bracket that stays open": _recipe('{"model": {"name_or_path": "./model"}', "line 1, column 38", "expected ',' or '}'"),
    "two documents": _recipe(RECIPE + "---\na: 1\n", "line 12", "another document"),
    "an unknown alias": _recipe(RECIPE + "<<: *x\n", "line 12", "undefined alias 'x'"),
    "a colon in a text": _recipe(RECIPE + "description: a: b\n", "line 12, column 15"),
    "Python in YAML": _recipe(RECIPE + "description: !!python/object:os.system x\n", "line 12", "could not determine a constructor"),
    "a section without keys": _recipe(RECIPE.replace("  train: pairs.jsonl\n", ""), "data is None", "expected a section"),
    "a key twice": _recipe(RECIPE + "  beta: 0.1\n  beta: 0.2\n", "'beta' stands in line 12 and again in line 13", "keep one of them"),
    "a section twice": _recipe(RECIPE + "data:\n  train: b.jsonl\n", "'data' stands in line 4 and again in line 12"),
    "a key twice in a line": _recipe(RECIPE + "seeds: [1]\nvariants: {a: {}, a: {}}\n", "'a' stands in line 13 and again in line 13"),
    "no model": _recipe("data:\n  train: pairs.jsonl\n", "model is missing"),
    "no data": _recipe("model:\n  name_or_path: ./model\n", "data.train is missing"),
    "a misspelt section": _recipe(RECIPE.replace("training:", "trainning:"), "trainning is not a key", "did you mean 'training'?"),
    "a misspelt key": _recipe(RECIPE.replace("max_steps", "max_step"), "training.max_step is not a key", "did you mean 'max_steps'?"),
    "a key of another section": _recipe(RECIPE.replace("dtype", "beta"), "model.beta is not a key", "there are"),
    "a wrong key in a variant": _recipe(RECIPE + "variants: {a: {training.bet: 1}}\n", "(variant a)", "did you mean 'beta'?"),
    "a secret": _recipe(RECIPE + "  hub_token: hf_abcdefghijklmnopqrstuvwx\n", "training.hub_token", "HF_TOKEN"),
    "extends nothing": _recipe("extends: methods/dpoo\n" + RECIPE, "extends 'methods/dpoo'", "did you mean 'methods/dpo'?"),
    "a section of version 0.1": _recipe(
        RECIPE + "evaluation: {task: sums, problems: 400}\n", "evaluation is not a key any more", "measure: [{suite: sums, problems: 400}]"
    ),
    "extends itself": _recipe("extends: recipe\n" + RECIPE, "extends 'recipe'"),
}

SETTINGS = {
    "β of 0": _setting("training.beta=0", "training.beta is 0", "expected a number above 0"),
    "β below 0": _setting("training.beta=-0.1", "training.beta is -0.1", "expected a number above 0"),
    "β no number": _setting("training.beta=.nan", "training.beta is nan", "expected a number above 0"),
    "β without end": _setting("training.beta=.inf", "training.beta is inf"),
    "β a word": _setting("training.beta=abc", "training.beta is 'abc'", "valid number"),
    "β true": _setting("training.beta=true", "training.beta is true", "expected a number"),
    "an unknown loss": _setting("training.loss_type=sigmoit", "unknown loss 'sigmoit'", "did you mean 'sigmoid'?", "module:function"),
    "one unknown loss of two": _setting("training.loss_type=[sigmoid, kkto]", "unknown loss 'kkto'", "did you mean 'kto'?"),
    "a method for a loss": _setting("training.loss_type=cpo", "unknown loss 'cpo'", "extends: methods/cpo"),
    "two losses of one name": _setting("training.loss_type=rdpo", "`robust`", "`length_margin`"),
    "no loss": _setting("training.loss_type=[]", "training.loss_type is []", "expected the name of a loss"),
    "an own loss that is not there": _setting("training.loss_type=nowhere:loss", "'nowhere:loss'", "No module named 'nowhere'"),
    "weights of other losses": _setting("training.loss_weights=[1, 2]", "loss_weights", "2 weights for 1 loss"),
    "conservative DPO without a share": _setting("training.loss_type=cdpo", "needs `label_smoothing` above 0"),
    "a learning rate below 0": _setting("training.learning_rate=-1", "training.learning_rate is -1", "expected 0 or more"),
    "a learning rate that is none": _setting("training.learning_rate=5e-7x", "training.learning_rate is '5e-7x'"),
    "a batch of 0": _setting("training.per_device_train_batch_size=0", "per_device_train_batch_size is 0", "expected 1 or more"),
    "no accumulation": _setting("training.gradient_accumulation_steps=0", "gradient_accumulation_steps is 0", "expected 1 or more"),
    "a length of 0": _setting("training.max_length=0", "training.max_length is 0", "expected 1 or more"),
    "no steps": _setting("training.max_steps=0", "training.max_steps is 0", "or -1"),
    "epochs below 0": _setting("training.num_train_epochs=-1", "num_train_epochs is -1", "above 0"),
    "labels mostly flipped": _setting("training.label_smoothing=0.7", "label_smoothing is 0.7", "from 0 to below 0.5"),
    "an SFT term below 0": _setting("training.sft_weight=-1", "sft_weight is -1", "expected 0 or more"),
    "a schedule that is none": _setting("training.lr_scheduler_type=cosin", "lr_scheduler_type is 'cosin'", "did you mean 'cosine'?"),
    "an optimizer that is none": _setting("training.optim=adamw_torsh", "optim is 'adamw_torsh'", "did you mean 'adamw_torch'?"),
    "a strategy that is none": _setting("training.save_strategy=step", "save_strategy is 'step'", "did you mean 'steps'?"),
    "evaluating on nothing": _setting("training.eval_strategy=steps", "eval_strategy is 'steps'", "no data.eval"),
    "truncation that is none": _setting("training.truncation_mode=keep_middle", "truncation_mode", "did you mean 'keep_end'?"),
    "a backend that is none": _setting("training.attention_backend=flash", "attention_backend", "flex", "gather"),
    "a tracker that is none": _setting("training.report_to=wandbb", "training.report_to is 'wandbb'", "did you mean 'wandb'?"),
    "a tracker not installed": _setting("training.report_to=comet_ml", "comet_ml", "pip install comet_ml", "report_to=none"),
    "two precisions": _setting("training={fp16: true, bf16: true}", "fp16 and bf16"),
    "a precision of GPUs": _setting("training.tf32=true", "tf32"),
    "a share above 1": _setting("data.max_rejected_share=3", "data.max_rejected_share is 3", "from 0 to 1"),
    "no records": _setting("data.limit=0", "data.limit is 0", "expected 1 or more"),
    "no seeds": _setting("seeds=[]", "seeds is []", "one at least"),
    "a seed twice": _setting("seeds=[1, 1]", "seeds is [1, 1]", "different"),
    "a seed below 0": _setting("training.seed=-1", "training.seed is -1"),
    "a precision by its short name": _setting("model.dtype=fp16", "model.dtype is 'fp16'", "'bfloat16', 'float16', 'float32' or 'auto'"),
    "an adapter of rank 0": _setting("model.lora.r=0", "model.lora.r is 0", "expected 1 or more"),
    "an adapter on no layer": _setting("model.lora={target_modules: [q_prj]}", "'q_prj'", "did you mean 'q_proj'?"),
    "quantized weights to train": _setting("model.quantization=nf4", "quantization needs lora"),
    "attention not installed": _setting("model.attn_implementation=flash_attention_2", "needs flash_attn", "pip install flash-attn"),
    "attention that is none": _setting("model.attn_implementation=flashy", "attn_implementation is 'flashy'", "sdpa"),
    "no such launcher": _setting("resources.accelerate=zero9", "resources.accelerate is 'zero9'", "did you mean 'zero3'?"),
    "no processes": _setting("resources.processes=0", "resources.processes is 0", "expected 1 or more"),
    "no such DeepSpeed file": _setting("training.deepspeed=ds.json", "training.deepspeed 'ds.json'", "no such file"),
    "a DeepSpeed file that is broken": Mistake(_dry("training.deepspeed=ds.json"), ("ds.json", "it is not JSON"), {"ds.json": "{"}),
    "a column that is not there": _setting(
        "data.columns={prompt: question}", "columns.prompt is 'question'", "no column of the data", "prompt"
    ),
    "a target that is none": _setting("data.columns={promt: prompt}", "columns.promt", "did you mean 'prompt'?"),
    "no samples": _setting("rollouts={prompts: pairs.jsonl, samples: 0}", "rollouts.samples is 0"),
    "a temperature below 0": _setting("rollouts={prompts: pairs.jsonl, temperature: -1}", "rollouts.temperature is -1"),
    "a nucleus of 0": _setting("rollouts={prompts: pairs.jsonl, top_p: 0}", "rollouts.top_p is 0", "above 0 to 1"),
}

DATA = {
    "nothing in it": _data("", "there is no record in it"),
    "blank lines": _data("\n\n\n", "there is no record in it"),
    "no JSON": _data("hello\nworld\n", "line 1: the line is not JSON", "none of the first 2 records"),
    "bytes": _data(b"\x00\xff\x01\xfe" * 50, "line 1"),
    "Latin-1": _data(lines({**PAIRS[0], "rejected": "ü"}).replace("\\u00fc", "ü").encode("latin-1"), "line 1", "`rejected`"),
    "equal responses": _data(lines({"prompt": "a", "chosen": "b", "rejected": "b"}), "line 1", "the same response"),
    "other columns": _data(lines({"ask": "a", "good": "b", "bad": "c"}), "no column 'chosen'", "data.columns: {prompt:"),
    "no rejected": _data(lines({"prompt": "a", "chosen": "b"}), "no column 'rejected'", "there are chosen, prompt"),
    "a misspelt column": _data(lines({"prompt": "a", "choosen": "b", "rejected": "c"}), "did you mean 'choosen'?"),
    "null": _data(lines({"prompt": "a", "chosen": None, "rejected": "c"}), "line 1", "`chosen` is null"),
    "numbers": _data(lines({"prompt": 1, "chosen": 2, "rejected": 3}), "line 1", "expected text or messages"),
    "KTO's form": _data(lines({"prompt": "a", "completion": "b", "label": True}), "no column 'chosen'", "completion, label, prompt"),
    "responses without preferences": _data(
        lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), "no column 'chosen'"
    ),
    "a tree that loops": _data(lines({"prompt": "p", "nodes": [{"text": "a", "parent": 0}]}), "line 1", "nodes[0].parent"),
    "too long": Mistake(_dry("training.max_length=3"), ("line 1", "`max_length` is 3", "no room for a response")),
    "a broken Parquet": _file("x.parquet", b"PAR1 not really", "Parquet magic bytes not found"),
    "a broken gzip": _file("x.jsonl.gz", b"not gzip", "it is no whole gzip file"),
    "Excel": _file("x.xlsx", b"PK", "a file of this type is not read", ".jsonl"),
    "text": _file("x.txt", "a", "a file of this type is not read"),
    "no ending": _file("pairs", "{}", "a file of this type is not read"),
    "a number": _file("x.json", "5", "expected a list of records"),
    "a cut list": _file("x.json", '[{"prompt": "a", "chosen": "b", "reje', "not JSON"),
    "a misspelt file": _setting("data.train=pair.jsonl", "data.train 'pair.jsonl'", "no such file", "did you mean 'pairs.jsonl'?"),
    "a folder that is not there": _setting("data.train=dat/pairs.jsonl", "there is no folder dat"),
    "an empty folder": Mistake(
        _dry("data.train=empty"), ("data.train 'empty'", "no file in this folder"), spoil=lambda f, m: (f / "empty").mkdir()
    ),
    "a link to nothing": Mistake(
        _dry("data.train=l.jsonl"), ("link to gone.jsonl",), spoil=lambda f, m: (f / "l.jsonl").symlink_to("gone.jsonl")
    ),
    "no such file to evaluate on": _setting("data.eval=none.jsonl", "data.eval 'none.jsonl'", "no such file"),
    "a micro task that is none": _setting("data.train=micro:sum", "did you mean 'micro:sums'?"),
    "not on the hub": _setting("data.train=nobody/nothing", "data.train 'nobody/nothing'", "hub"),
}


def _without(*names: str) -> Callable[..., None]:
    def spoil(folder: Path, monkeypatch: object) -> None:
        for name in names:
            (folder / "model" / name).unlink()

    return spoil


def _holding(name: str, content: str) -> Callable[..., None]:
    def spoil(folder: Path, monkeypatch: object) -> None:
        (folder / "model" / name).write_text(content)

    return spoil


def _elsewhere(folder: Path, monkeypatch: object) -> None:
    (folder / "models").mkdir()
    (folder / "model").rename(folder / "models" / "model")


MODELS = {
    "no such folder": _setting("model.name_or_path=./nowhere", "model.name_or_path './nowhere'", "no config.json", "it does not exist"),
    "an empty folder": Mistake(
        _dry("model.name_or_path=./empty"), ("no config.json", "it is empty"), spoil=lambda f, m: (f / "empty").mkdir()
    ),
    "the folder above": Mistake(_dry("model.name_or_path=./models"), ("there is one in models/model",), spoil=_elsewhere),
    "a file": _setting("model.name_or_path=./pairs.jsonl", "it is a file: expected the folder of a model"),
    "no weights": Mistake(_dry(), ("no weights in this folder", ".safetensors"), spoil=_without("model.safetensors")),
    "no tokenizer": Mistake(
        _dry(), ("no tokenizer in this folder", "tokenizer.json"), spoil=_without("tokenizer.json", "tokenizer_config.json")
    ),
    "a damaged tokenizer": Mistake(_dry(), ("a file of its tokenizer is damaged",), spoil=_holding("tokenizer.json", "{")),
    "a pointer for weights": Mistake(
        ["train", "recipe.yaml"], ("its weights cannot be read", "Git LFS"),
        spoil=_holding("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"),
    ),
    "cut weights": Mistake(
        ["train", "recipe.yaml"], ("its weights cannot be read", "cut off"),
        spoil=lambda f, m: (f / "model" / "model.safetensors").write_bytes((f / "model" / "model.safetensors").read_bytes()[:1000]),
    ),
    "a damaged configuration": Mistake(["train", "recipe.yaml"], ("config.json", "not a valid JSON"), spoil=_holding("config.json", "{")),
    "an unknown architecture": Mistake(["train", "recipe.yaml"], ("llamma",), spoil=_holding("config.json", '{"model_type": "llamma"}')),
    "not on the hub": _setting("model.name_or_path=nobody/nothing", "model.name_or_path 'nobody/nothing'", "cannot be reached", "give a path"),
    "a micro model that is none": _setting("model.name_or_path=micro:sum", "did you mean 'micro:sums'?"),
    "no such reference": _setting("model.reference=./nothing", "model.reference './nothing'", "no config.json"),
    "no such template": _setting("model.chat_template=none.jinja", "model.chat_template 'none.jinja'", "no such file", "Jinja"),
    "a template that is broken": Mistake(
        _dry("model.chat_template=t.jinja"), ("t.jinja' line 1", "Unexpected end of template"), {"t.jinja": "{% if x %}"}
    ),
    "a template that refuses": Mistake(
        _dry("model.chat_template=t.jinja"), ("line 1", "System role not supported"),
        {
            "t.jinja": "{{ raise_exception('System role not supported') }}",
            "pairs.jsonl": lines({"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
                                  "rejected": [{"role": "assistant", "content": "c"}]}),
        },
    ),
    "chats without a template": Mistake(
        _dry(), ("line 1", "no chat template"),
        {"pairs.jsonl": lines({"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
                               "rejected": [{"role": "assistant", "content": "c"}]})},
        spoil=_without("chat_template.jinja"),
    ),
}  # fmt: skip


def _logged_out(folder: Path, monkeypatch: object) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))


OWN = {
    "own.py": "def raises(chosen_scores, rejected_scores):\n    return chosen_scores / undefined\n\n\n"
    "def three(chosen_scores):\n    import torch\n\n    return torch.zeros(3)\n\n\ndef misread(chosen_scor):\n    return chosen_scor\n\n\nx = 5\n",
    "broken.py": "def x(:\n", "importing.py": "import nowhere_at_all\n",
}  # fmt: skip


def _here(folder: Path, monkeypatch: object) -> None:
    monkeypatch.syspath_prepend(str(folder))


def _own(loss: str, *words: str, command: str = "run") -> Mistake:
    given = ["run", "recipe.yaml", "--dry-run"] if command == "run" else ["train", "recipe.yaml"]
    return Mistake([*given, f"training.loss_type={loss}"], words, OWN, _here)


MACHINE = {
    "a file in the way": _setting("training.output_dir=pairs.jsonl", "training.output_dir 'pairs.jsonl'", "a file stands where a folder"),
    "a file above": _setting("training.output_dir=pairs.jsonl/out", "a file stands where a folder"),
    "nobody logged in": Mistake(_dry("training.report_to=wandb"), ("wandb", "nobody is logged in", "wandb login", "WANDB_MODE=offline"), spoil=_logged_out),
    "a checkpoint that is none": Mistake(["train", "recipe.yaml", "training.resume_from_checkpoint=nothing"], ("checkpoint 'nothing'", "no such folder")),
    "sharding without a launcher": Mistake(["train", "recipe.yaml", "training.fsdp=full_shard"], ("only works in distributed training",)),
    "an optimizer not installed": Mistake(["train", "recipe.yaml", "training.optim=galore_adamw"], ("galore_torch", "pip install")),
    "a schedule without its number": Mistake(["train", "recipe.yaml", "training.lr_scheduler_type=cosine_with_min_lr"], ("min_lr", "lr_scheduler_kwargs")),
    "an own loss that raises": _own("own:raises", "own.py line 2", "NameError", "'undefined'", command="train"),
    "an own loss of another shape": _own("own:three", "own:three", "shape [3]", "expected one value for each", command="train"),
    "an own loss that reads what is not": _own("own:misread", "'chosen_scor'", "did you mean 'chosen_scores'?"),
    "an own loss that is no function": _own("own:x", "'own:x'", "no function"),
    "an own loss that is misspelt": _own("own:raise", "own:raise", "no attribute 'raise'"),
    "an own module with an error": _own("broken:x", "broken:x", "SyntaxError"),
    "an own module that imports what is not": _own("importing:x", "importing:x", "No module named 'nowhere_at_all'"),
}  # fmt: skip

ALL = {
    f"{group}: {name}": mistake
    for group, mistakes in (
        ("command", COMMANDS), ("recipe", RECIPES), ("setting", SETTINGS), ("data", DATA), ("model", MODELS), ("machine", MACHINE)
    )
    for name, mistake in mistakes.items()
}  # fmt: skip
