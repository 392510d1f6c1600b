"""What `align train RECIPE` does: every variant and seed of a recipe, trained and measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from align import recipes
from align.errors import AlignError
from align.recipes import Recipe
from align.trainers import CompactProgress, PreferenceConfig, PreferenceTrainer
from align.trees import PreferenceTree, Rejected, check_rejected, locate_trees, pairs_from_tree, to_record, trees_from_pairs

MICRO = "micro:sums"


@dataclass(frozen=True)
class Outcome:
    """What a run reports: the evaluation before and after, and the last 3D measurement."""

    name: str
    seed: int
    before: float | None
    after: float | None
    three_d: dict[str, float]
    output_dir: str


def run(recipe: Recipe) -> list[Outcome]:
    """Train every variant of a recipe with every seed.

    Returns:
        One outcome a run, in order; they are also written to `outcomes.jsonl` in the recipe's output folder.
    """
    disable_progress_bar()  # of loading and saving weights
    outcomes = []
    for seed in recipe.seeds:
        for name in recipe.variants or [None]:
            outcomes.append(train(recipes.variant(recipe, name, seed), name or "run"))
    if _is_main_process():
        folder = Path(recipe.training.get("output_dir") or "runs/train")
        with open(folder / "outcomes.jsonl", "w", encoding="utf-8") as out:
            out.writelines(json.dumps(vars(outcome)) + "\n" for outcome in outcomes)
    return outcomes


def train(recipe: Recipe, name: str = "run") -> Outcome:
    """Train one recipe without variants and save the model in its output folder."""
    args = _arguments(recipe)
    seed = args.seed
    path = resolve_model(recipe.model.name_or_path, seed)
    tokenizer = _tokenizer(recipe, path)
    model = _load(recipe, path)
    before = _evaluate(recipe, model, tokenizer)
    trainer = PreferenceTrainer(
        model=model,
        ref_model=_load(recipe, recipe.model.reference) if recipe.model.reference else None,
        args=args,
        train_dataset=_dataset(recipe, recipe.data.train, recipe.data.train_split, model, tokenizer, args),
        eval_dataset=_dataset(recipe, recipe.data.eval, recipe.data.eval_split, model, tokenizer, args) if recipe.data.eval else None,
        processing_class=tokenizer,
        peft_config=_lora(recipe),
    )
    trainer.remove_callback(ProgressCallback)
    if not args.disable_tqdm:
        trainer.add_callback(CompactProgress(f"{name}, seed {seed}"))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    after = _evaluate(recipe, trainer.model, tokenizer)
    last = [entry for entry in trainer.state.log_history if "3d/chosen_drift" in entry]
    three_d = {k: v for k, v in last[-1].items() if k.startswith("3d/")} if last else {}
    return Outcome(name, seed, before, after, three_d, str(args.output_dir))


def _arguments(recipe: Recipe) -> PreferenceConfig:
    settings = dict(recipe.training)
    if not torch.cuda.is_available():
        settings.setdefault("use_cpu", True)
    settings.setdefault("max_rejected_share", recipe.data.max_rejected_share)
    try:
        return PreferenceConfig(**settings)
    except (ValueError, TypeError) as error:
        raise AlignError(f"training: {error}") from error


def resolve_model(name: str, seed: int) -> str:
    """The folder or hub name to load; `micro:sums` is trained first, or taken from the cache."""
    if name != MICRO:
        return name
    from data_pipelines.micro.start_model import StartModel, build

    return str(build(StartModel(seed=seed)))


def _load(recipe: Recipe, path: str) -> Any:
    options: dict[str, Any] = {"dtype": recipe.model.dtype, "revision": recipe.model.revision}
    if recipe.model.attn_implementation:
        options["attn_implementation"] = recipe.model.attn_implementation
    try:
        return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=recipe.model.trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise AlignError(f"model.name_or_path '{path}': {str(error).splitlines()[0]}") from error


def _tokenizer(recipe: Recipe, path: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise AlignError(f"model.name_or_path '{path}': {str(error).splitlines()[0]}") from error
    if recipe.model.chat_template:
        template = Path(recipe.model.chat_template)
        if not template.is_file():
            raise AlignError(f"model.chat_template '{template}': no such file")
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def _lora(recipe: Recipe) -> Any:
    if recipe.model.lora is None:
        return None
    from peft import LoraConfig

    lora = recipe.model.lora
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules, task_type="CAUSAL_LM"
    )  # fmt: skip


def _dataset(recipe: Recipe, source: str, split: str, model: Any, tokenizer: Any, args: PreferenceConfig) -> Dataset:
    trees = read(recipe, source, split, model, tokenizer, args)
    if recipe.data.merge_prompts:
        trees = trees_from_pairs(pair for tree in trees for pair in pairs_from_tree(tree))
    return Dataset.from_list([to_record(tree) for tree in trees[: recipe.data.limit]])


def read(recipe: Recipe, source: str, split: str, model: Any, tokenizer: Any, args: PreferenceConfig) -> list[PreferenceTree]:
    """The trees of a source; what cannot be read is kept aside in `unreadable.jsonl`.

    Raises:
        AlignError: too large a share cannot be read; names the first such record.
    """
    if source == MICRO:
        from data_pipelines.micro.preferences import sample_preferences

        return sample_preferences(model.eval(), tokenizer, count=recipe.data.limit or 400, seed=args.seed)
    found = list(locate_trees(source, split))
    rejected = [item for _, item in found if isinstance(item, Rejected)]
    trees = [item if item.id else replace(item, id=where) for where, item in found if isinstance(item, PreferenceTree)]  # for later errors
    check_rejected(len(trees), rejected, Path(args.output_dir or ".") / "unreadable.jsonl", recipe.data.max_rejected_share)
    if not trees:
        raise AlignError(f"{source}: there is no usable record")
    return trees


def _evaluate(recipe: Recipe, model: Any, tokenizer: Any) -> float | None:
    if recipe.evaluation is None:
        return None
    from eval.sums import greedy_accuracy

    return greedy_accuracy(model, tokenizer, recipe.evaluation.problems)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
