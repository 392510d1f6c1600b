"""Training: what `align train RECIPE` does (every variant and seed, trained and measured), and the training stage of a run."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, ProgressCallback, TrainerCallback

from align import recipes
from align.card import model_card
from align.errors import AlignError, nearest
from align.files import put, remove, write_text
from align.models import load_model, load_tokenizer, whole_model
from align.plans import Outcome
from align.recipes import Recipe
from align.recipes.measures import MicroMeasure
from align.runs import Task
from align.secrets import masked
from align.trainers import CompactProgress, PreferenceConfig, PreferenceTrainer, StageProgress, used_data
from align.trainers.data import made_on_each_node
from align.trees import PreferenceTree, Rejected, UnusableRecords, locate_trees, merged_dataset, tree_dataset, write_jsonl
from data_pipelines.micro import start_model


def run(recipe: Recipe) -> list[Outcome]:
    """Train every variant of a recipe with every seed.

    Returns:
        One outcome a run, in order; they are also written to `outcomes.jsonl` in the recipe's output folder.
    """
    outcomes = []
    for seed in recipe.seeds:
        for name in recipe.variants or [None]:
            outcomes.append(train(recipes.variant(recipe, name, seed), name or "run"))
    if _is_main_process():
        folder = Path(recipe.training.get("output_dir") or "runs/train")
        write_jsonl(map(vars, outcomes), folder / "outcomes.jsonl")
    return outcomes


def train(recipe: Recipe, name: str = "run") -> Outcome:
    """Train one recipe without variants, save the model in its output folder, and measure it before and after."""
    path = start_model.resolve(recipe.model.name_or_path, recipe.seed)
    folder = Path(recipe.training.get("output_dir") or "runs/train")
    trainer = make_trainer(recipe, path, name, folder)
    _say_what_is_used(trainer, recipe, folder)
    before = _measure(recipe, trainer)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    _write_card(trainer, recipe, Path(str(trainer.args.output_dir)))
    after = _measure(recipe, trainer)
    last = [entry for entry in trainer.state.log_history if "3d/chosen_drift" in entry]
    three_d = {k: v for k, v in last[-1].items() if k.startswith("3d/")} if last else {}
    return Outcome(name, trainer.args.seed, before, after, three_d, str(trainer.args.output_dir))


def train_stage(task: Task) -> None:
    """The training stage of a run: `train_task` in processes of its own."""
    train_task(task)


def train_task(task: Task, callbacks: Sequence[TrainerCallback] = ()) -> PreferenceTrainer | None:
    """Train a model as a run's stage says, on all ranks of the process group; goes on from the newest whole checkpoint.

    Args:
        task: with the inputs `model`, `data`, `eval` where it is evaluated on some, `reference` where it is not the model itself, and as
            settings the recipe's `model`, `data` and `training`. Outputs: `model/`, with LoRA `adapter/` too; `log.jsonl`, what was
            logged; `three_d.jsonl`; `data.json`, what is used of the data, and beside it what is left out (`unreadable.jsonl`,
            `rejected-train.jsonl`).
        callbacks: of the trainer, besides its own.

    Returns:
        The trainer, None where the model was there already.
    """
    checkpoints = task.folder / "checkpoints"
    if (task.folder / "model").exists():  # killed after the model was saved, before the stage was declared done
        shutil.rmtree(checkpoints, ignore_errors=True)
        return None
    model, data = {**task.settings["model"], "name_or_path": task.inputs["model"]}, {**task.settings["data"], "train": task.inputs["data"]}
    if "reference" in task.inputs:
        model["reference"] = task.inputs["reference"]
    if "eval" in task.inputs:
        data["eval"] = task.inputs["eval"]
    training = {**task.settings["training"], **task.resources["training"], "output_dir": str(checkpoints)}
    recipe = recipes.parse({"model": model, "data": data, "training": training}, task.name)
    path = start_model.resolve(task.inputs["model"], int(training.get("seed", 42)))
    trainer = make_trainer(recipe, path, task.name, task.folder)
    for callback in (StageProgress(task), *callbacks):
        trainer.add_callback(callback)
    _say_what_is_used(trainer, recipe, task.folder)
    trainer.train(resume_from_checkpoint=True)
    if trainer.accelerator.is_main_process:
        write_jsonl(trainer.state.log_history, task.folder / "log.jsonl")
        if (checkpoints / "three_d.jsonl").exists():
            shutil.copyfile(checkpoints / "three_d.jsonl", task.folder / "three_d.jsonl")
    _save(trainer, recipe, task.folder)
    if trainer.accelerator.is_main_process:
        shutil.rmtree(checkpoints)
    trainer.accelerator.wait_for_everyone()
    return trainer


def _say_what_is_used(trainer: PreferenceTrainer, recipe: Recipe, folder: Path) -> None:
    """Say what is used of each data set and what is left out, and leave both in a folder."""
    if not trainer.accelerator.is_main_process:
        return
    parts = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    for part, used in used_data.keep(parts, Path(str(trainer.args.output_dir)), folder).items():
        print(f"data: {used.sentence(Path(str(getattr(recipe.data, part))).name, folder)}", flush=True)


def _save(trainer: PreferenceTrainer, recipe: Recipe, folder: Path) -> None:
    """Leave `model/`, whole or not at all, and with LoRA `adapter/` too: later stages and engines need no adapter's base."""
    name = "adapter" if recipe.model.lora else "model"
    if trainer.accelerator.is_main_process:
        remove(folder / f"{name}.tmp")  # of an attempt that was ended
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(folder / f"{name}.tmp"))
    _write_card(trainer, recipe, folder / f"{name}.tmp")
    if not trainer.accelerator.is_main_process:
        return
    put(folder / f"{name}.tmp", folder / name)
    if recipe.model.lora:
        load_model(str(folder / "adapter"), dtype=recipe.model.dtype).save_pretrained(folder / "model.tmp")
        trainer.processing_class.save_pretrained(folder / "model.tmp")
        _write_card(trainer, recipe, folder / "model.tmp")
        put(folder / "model.tmp", folder / "model")


def _write_card(trainer: PreferenceTrainer, recipe: Recipe, folder: Path) -> None:
    if trainer.accelerator.is_main_process:
        card = model_card(recipe, trainer.args, trainer.state.log_history, len(trainer.train_dataset))
        write_text(folder / "README.md", masked(card))


def make_trainer(recipe: Recipe, path: str, label: str, folder: Path) -> PreferenceTrainer:
    """The trainer of a recipe, ready to train.

    Args:
        recipe: without variants.
        path: the policy's folder or name, resolved.
        label: in front of the progress bar.
        folder: where the model goes that a new adapter is trained on, if it has to be made from another adapter and its base first.

    Raises:
        AlignError: models or data cannot be had, or settings contradict each other.
    """
    assert recipe.data.train is not None
    logging.getLogger("transformers.trainer_utils").addFilter(lambda record: "mtime may not be reliable" not in record.getMessage())
    start = whole_model(path, folder, **_model_options(recipe)) if recipe.model.lora else path  # before weights are spread over ranks
    args = arguments(recipe)
    tokenizer = _tokenizer(recipe, path)
    model = _load(recipe, start)
    trainer = PreferenceTrainer(
        model=model,
        ref_model=_load(recipe, recipe.model.reference, "model.reference") if recipe.model.reference else None,
        args=args,
        train_dataset=_dataset(recipe, "train", model, tokenizer, args),
        eval_dataset=_dataset(recipe, "eval", model, tokenizer, args) if recipe.data.eval else None,
        processing_class=tokenizer,
        peft_config=_lora(recipe),
    )
    trainer.release_reference()
    trainer.remove_callback(ProgressCallback)
    if not args.disable_tqdm:
        trainer.add_callback(CompactProgress(label))
    return trainer


def arguments(recipe: Recipe) -> PreferenceConfig:
    """The trainer's configuration of a recipe.

    Raises:
        AlignError: its settings contradict each other or the machine; names the key where the library's error tells it.
    """
    settings = dict(recipe.training)
    if not torch.cuda.is_available():
        settings.setdefault("use_cpu", True)
    settings.setdefault("max_rejected_share", recipe.data.max_rejected_share)
    if recipe.data.eval is not None:
        settings.setdefault("eval_strategy", "epoch")
    if settings.get("columns"):
        raise AlignError("training.columns: in a recipe the columns are named in `data.columns`")
    try:
        return PreferenceConfig(**settings)
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise AlignError(f"training: {_of_the_settings(error, settings)}") from error


def _of_the_settings(error: Exception, settings: dict[str, Any]) -> str:
    """A library's error about settings as a sentence; of a value that is none of several options, with the key and the nearest."""
    text = " ".join(str(error).split())
    if (known := _OPTIONS.match(text)) is not None:
        key = next((name for name, value in settings.items() if value == known[1]), known[2])
        return f"{key} is '{known[1]}': {nearest(known[1], _QUOTED.findall(known[3]))}"
    return text


_OPTIONS = re.compile(r"'?(\S+?)'? is not a valid (\w+),? (?:please select one of|allowed values:) (.*)")
_QUOTED = re.compile(r"'([^']+)'")


def _load(recipe: Recipe, source: str, key: str = "model.name_or_path") -> Any:
    options = _model_options(recipe)
    return load_model(source, **{**options, "revision": options["revision"] if key == "model.name_or_path" else None}, key=key)


def _model_options(recipe: Recipe) -> dict[str, Any]:
    names = ("dtype", "revision", "trust_remote_code", "attn_implementation", "quantization")
    return {name: getattr(recipe.model, name) for name in names}


def _tokenizer(recipe: Recipe, source: str) -> PreTrainedTokenizerBase:
    model = recipe.model
    return load_tokenizer(
        source, revision=model.revision, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
    )  # fmt: skip


def _lora(recipe: Recipe) -> Any:
    if recipe.model.lora is None:
        return None
    from peft import LoraConfig

    lora = recipe.model.lora
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules, task_type="CAUSAL_LM"
    )  # fmt: skip


def _dataset(recipe: Recipe, part: str, model: Any, tokenizer: Any, args: PreferenceConfig) -> Dataset:
    """The data set of a part of `data`, "train" or "eval"."""
    if getattr(recipe.data, part) == start_model.NAME:
        from data_pipelines.micro.preferences import sample_preferences

        dataset = _written(recipe, sample_preferences(model.eval(), tokenizer, count=recipe.data.limit or 400, seed=args.seed))
    else:
        dataset = made_on_each_node(lambda: read(recipe, part, args))
    return dataset if recipe.data.limit is None else dataset.select(range(min(recipe.data.limit, len(dataset))))


def read(recipe: Recipe, part: str, args: PreferenceConfig) -> Dataset:
    """The trees of `data.train` or `data.eval`, of a larger source no fewer than `data.limit`.

    What cannot be read is kept aside in `unreadable.jsonl`, of eval in `unreadable-eval.jsonl`.

    Raises:
        AlignError: too large a share cannot be read; names the first such record.
    """
    source, split = getattr(recipe.data, part), getattr(recipe.data, f"{part}_split")
    aside = Path(args.output_dir or ".") / used_data.files_of(part)[0]
    with UnusableRecords(aside if _is_main_process() else None) as unusable:
        usable = Usable(locate_trees(source, split, recipe.data.columns), unusable)
        dataset = _written(recipe, usable)
        unusable.check(usable.count, recipe.data.max_rejected_share)
    if not usable.count:
        first = f"; the first: {unusable.first.where}: {unusable.first.reason}" if unusable.first else ""
        raise AlignError(f"{source}: there is no usable record{first}")
    return dataset


class Usable:
    """The trees among located records, each with an id for later errors; the others are handed on as they come by.

    Attributes:
        count: how many there were.
    """

    def __init__(self, located: Iterable[tuple[str, PreferenceTree | Rejected]], unusable: UnusableRecords) -> None:
        """Args: the records, and who takes those that cannot be used."""
        self.count, self._located, self._unusable = 0, located, unusable

    def __iter__(self) -> Iterator[PreferenceTree]:
        for where, item in self._located:
            if isinstance(item, Rejected):
                self._unusable.add(item)
            else:
                self.count += 1
                yield item if item.id else replace(item, id=where)


def _written(recipe: Recipe, trees: Iterable[PreferenceTree]) -> Dataset:
    """Trees on the disk, merged if the recipe says so; of trees that stay as they are, no more than it wants."""
    return merged_dataset(trees) if recipe.data.merge_prompts else tree_dataset(islice(trees, recipe.data.limit))


def _measure(recipe: Recipe, trainer: PreferenceTrainer) -> dict[str, dict[str, float]]:
    """The numbers of each suite."""
    from eval.tasks import measure

    found = {}
    for place, suite in enumerate(recipe.measure):
        if not isinstance(suite, MicroMeasure):
            raise AlignError(f"measure.{place}: `align train` measures by the micro tasks alone: `align run` measures by '{suite.suite}'")
        found[suite.label] = measure(suite.suite, trainer.model, trainer.processing_class, suite.problems).numbers
    return found


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
