"""What of a training can be checked before it starts: what it needs to be here; and, on demand, its settings and first records."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from align import hub
from align.errors import AlignError, nearest
from align.recipes import Recipe
from align.trees import Rejected, locate_trees, to_row
from align.trees.files import LOOKED_AT

TRACKERS = {
    "wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "trackio": "trackio", "comet_ml": "comet_ml", "clearml": "clearml",
    "swanlab": "swanlab", "neptune": "neptune", "dvclive": "dvclive", "codecarbon": "codecarbon", "dagshub": "dagshub",
    "azure_ml": "azureml", "flyte": "flytekit", "kubeflow": "kubeflow", "none": "", "all": "",
}  # fmt: skip
"""What transformers reports to, and the package that each needs."""
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
_FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface", "flash_attention_4": "flash_attn"}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.json", "adapter_model.*")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.*", "*.tiktoken", "tekken.json")
MICRO = ("micro:sums", "micro:careless", "micro:style", "micro:code")


def check_needs(recipe: Recipe) -> None:
    """See that the files and packages that a training names are here.

    Raises:
        AlignError: what is missing, under which key, and how to get it.
    """
    _check_template(recipe.model.chat_template)
    _check_attention(recipe.model.attn_implementation)
    if recipe.model.quantization is not None:
        _check_package("bitsandbytes", f"model.quantization is '{recipe.model.quantization}'", "pip install 'align-preferences[qlora]'")
    given = recipe.training.get("report_to") or []
    for name in [given] if isinstance(given, str) else given:
        if name not in TRACKERS:
            raise AlignError(f"training.report_to is '{name}': {nearest(str(name), TRACKERS)}")
        if TRACKERS[name]:
            _check_package(TRACKERS[name], f"training.report_to is '{name}'", f"pip install {name}, or set training.report_to=none")
    config = recipe.training.get("deepspeed")
    if config:
        _check_package("deepspeed", "training.deepspeed is set", "pip install 'align-preferences[deepspeed]'")
    if isinstance(config, str):
        _check_json("training.deepspeed", Path(config))


def check_local_model(key: str, name: str) -> None:
    """See that a folder holds a whole model.

    Args:
        key: of the recipe, for errors.
        name: the folder.

    Raises:
        AlignError: it is none, is empty, or lacks configuration, weights or tokenizer.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise AlignError(f"{key} '{name}': it is a file: expected the folder of a model, or a name on the hub")
    if not any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
        has = "it does not exist" if not folder.exists() else "it is empty" if not any(folder.iterdir()) else _nested(folder)
        raise AlignError(f"{key} '{name}': there is no model in this folder (no config.json): {has}")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise AlignError(f"{key} '{name}': there are no weights in this folder (no *.safetensors)")
    if key == "model.name_or_path" and not has_tokenizer(folder):
        raise AlignError(f"{key} '{name}': there is no tokenizer in this folder (no tokenizer.json): save it beside the model")


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies in a model's folder; a reference that is trained against, and not sampled from, needs none."""
    return any(next(folder.glob(pattern), None) for pattern in TOKENIZERS)


def check_micro(key: str, name: str, known: Iterable[str]) -> None:
    """See that a name that begins with "micro:" is one that is made here; raises AlignError with the nearest."""
    if name not in known:
        raise AlignError(f"{key} is '{name}': {nearest(name, known)}")


def check_settings(recipe: Recipe) -> list[str]:
    """Build the trainer's configuration and prepare the first records, as the training will.

    Takes the seconds that torch and trl take to import.

    Returns:
        What is seen of each data set, a sentence each.

    Raises:
        AlignError: the settings contradict each other or the machine; none of the first records can be used.
    """
    from align.experiment import arguments

    args = arguments(recipe)
    if recipe.method.asks_prompts:
        return _first_prompts(recipe)
    if recipe.model.name_or_path.startswith("micro:") or recipe.method.makes_preferences:
        return []
    _check_adapter(recipe)
    tokenizer = _tokenizer(recipe)
    parts = {part: getattr(recipe.data, part) for part in ("train", "eval")}
    return [
        _first_records(recipe, part, source, tokenizer, args)
        for part, source in parts.items()
        if source is not None and not source.startswith("micro:")
    ]


def _first_prompts(recipe: Recipe) -> list[str]:
    from data_pipelines.rollouts.prompts import read_prompts

    rollouts = recipe.rollouts
    if rollouts is None or rollouts.prompts.startswith("micro:"):
        return []
    prompts, unusable = read_prompts(rollouts.prompts, rollouts.prompts_split, LOOKED_AT, rollouts.prompts_column)
    left = f"; {len(unusable)} cannot, the first: {unusable[0].where}: {unusable[0].reason}" if unusable else ""
    return [f"rollouts.prompts '{rollouts.prompts}': the first {len(prompts)} prompts can be used{left}"]


def _check_adapter(recipe: Recipe) -> None:
    """See that the model has the layers that `model.lora` names, on a copy without weights."""
    if recipe.model.lora is None or recipe.model.lora.target_modules == "all-linear":
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from align.models import base_of

    model = recipe.model
    config = AutoConfig.from_pretrained(base_of(model.name_or_path), trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    names = [name for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear)]
    wanted = recipe.model.lora.target_modules
    for target in [wanted] if isinstance(wanted, str) else wanted:
        fits = re.fullmatch if isinstance(wanted, str) else _ends_with
        if not any(fits(target, name) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise AlignError(f"model.lora.target_modules: no linear layer of the model is called '{target}': {nearest(target, known)}")


def _ends_with(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _tokenizer(recipe: Recipe) -> Any:
    from align.models import load_tokenizer

    model = recipe.model
    return load_tokenizer(
        model.name_or_path, revision=model.revision, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
    )


def _first_records(recipe: Recipe, part: str, source: str, tokenizer: Any, args: Any) -> str:
    from align.trainers.data import REASON, Conversion

    convert = Conversion(tokenizer, None, args.max_length, args.truncation_mode, trees=True)
    reasons: list[str] = []
    located = list(islice(locate_trees(source, getattr(recipe.data, f"{part}_split"), recipe.data.columns), LOOKED_AT))
    for where, item in located:
        reason = item.reason if isinstance(item, Rejected) else str(convert(to_row(item))[REASON])
        reasons += [f"{where}: {reason}"] if reason else []
    if len(reasons) == len(located):
        raise AlignError(f"data.{part}: {reasons[0]} (none of the first {len(located)} records can be used)")
    left = f"; {len(reasons)} cannot, the first: {reasons[0]}" if reasons else ""
    return f"data.{part} '{source}': {len(located) - len(reasons)} of the first {len(located)} records can be used{left}"


def _check_template(given: str | None) -> None:
    if given is None:
        return
    if not Path(given).is_file():
        raise AlignError(f"model.chat_template '{given}': no such file: expected a Jinja file")
    import jinja2

    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(Path(given).read_text(encoding="utf-8"))
    except jinja2.TemplateSyntaxError as error:
        if "Encountered unknown tag 'generation'" in str(error) or "'endgeneration'" in str(error):  # transformers' own
            return
        raise AlignError(f"model.chat_template '{given}' line {error.lineno}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise AlignError(f"model.chat_template '{given}': it is no UTF-8 text (byte {error.start})") from error


def _check_json(key: str, path: Path) -> None:
    if not path.is_file():
        raise AlignError(f"{key} '{path}': {hub.not_there(str(path))}")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AlignError(f"{key} '{path}': it is not JSON ({error})") from error


def _check_attention(name: str | None) -> None:
    if name is None or "/" in name:  # a kernel on the hub
        return
    if name not in ATTENTIONS:
        raise AlignError(f"model.attn_implementation is '{name}': {nearest(name, ATTENTIONS)}")
    if name in _FLASH:
        hint = "pip install flash-attn --no-build-isolation on a GPU machine, or leave the key out"
        _check_package(_FLASH[name], f"model.attn_implementation is '{name}'", hint)


def _check_package(module: str, given: str, hint: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise AlignError(f"{given}, which needs {module}, and that is not installed here: {hint}")


def _nested(folder: Path) -> str:
    """What an own model's folder without a model has instead: models in folders below it, or files."""
    below = sorted(path.parent.name for path in folder.glob("*/config.json"))
    return f"there is one in {', '.join(str(folder / name) for name in below[:5])}" if below else "it has other files alone"
