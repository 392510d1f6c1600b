"""The start of micro DICE: a model trained on the style task, and DPO of it on what a length-biased judge prefers."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset

from align.engine.generate import sample_responses
from align.models import load_model
from align.runs import Task
from align.sampling import Sampling
from align.trainers import CompactProgress, PreferenceConfig, PreferenceTrainer
from align.trees import Edge, Node, PreferenceTree, read_trees, to_record, write_jsonl, write_trees
from data_pipelines.micro import style
from data_pipelines.micro.scratch import cached, train_from_scratch


@dataclass(frozen=True)
class StyleStart:
    """How both start models are made.

    Attributes:
        steps, batch_size, learning_rate, hidden_size, layers, heads: of the first model, trained from scratch.
        pairs, dpo_learning_rate, dpo_epochs, beta, sft_weight: of DPO.
    """

    seed: int = 0
    steps: int = 250
    batch_size: int = 64
    learning_rate: float = 2e-3
    hidden_size: int = 96
    layers: int = 3
    heads: int = 3
    pairs: int = 800
    dpo_learning_rate: float = 1e-4
    dpo_epochs: int = 2
    beta: float = 0.1
    sft_weight: float = 0.1


def prepare(task: Task) -> None:
    """Settings: those of `StyleStart`. Outputs: `reference/`, `policy/`, `offline.jsonl`, `prompts.jsonl`."""
    made = build(StyleStart(**task.settings))
    for part in ("reference", "policy"):
        shutil.copytree(made / part, task.folder / part, dirs_exist_ok=True)
    for part in ("offline.jsonl", "prompts.jsonl"):
        shutil.copyfile(made / part, task.folder / part)


def build(how: StyleStart, folder: Path | None = None) -> Path:
    """Make both models and the data, or take them from the cache: a folder with the outputs of `prepare`."""
    return cached("style", asdict(how), lambda target: _make(how, target), folder)


def _make(how: StyleStart, target: Path) -> None:
    tokenizer = style.tokenizer()
    model = train_from_scratch(
        tokenizer, style.examples(how.steps * how.batch_size, how.seed), seed=how.seed, batch_size=how.batch_size,
        hidden_size=how.hidden_size, layers=how.layers, heads=how.heads, learning_rate=how.learning_rate,
        label=f"style model, seed {how.seed}",
    )  # fmt: skip
    model.save_pretrained(target / "reference")
    tokenizer.save_pretrained(target / "reference")
    write_trees(_preferences(how, model, tokenizer), target / "offline.jsonl")
    write_jsonl(({"prompt": prompt} for prompt in style.prompts("rounds")), target / "prompts.jsonl")
    _tune(how, target)


def _preferences(how: StyleStart, model: torch.nn.Module, tokenizer: object) -> list[PreferenceTree]:
    """On-policy pairs, labelled by the noisy judge."""
    rng = random.Random(how.seed)
    prompts = rng.choices(style.prompts("offline"), k=how.pairs)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]  # type: ignore[operator]
    samples = sample_responses(model, ids, Sampling(style.MAX_NEW_TOKENS), tokenizer=tokenizer, seeds=how.seed << 20, n=2)
    trees = []
    for prompt, prompt_ids, (one, other) in zip(prompts, ids, samples, strict=True):
        texts = [tokenizer.decode(s.token_ids, skip_special_tokens=True) for s in (one, other)]  # type: ignore[attr-defined]
        if one.token_ids == other.token_ids or not all(texts):
            continue
        nodes = tuple(Node(text, token_ids=s.token_ids) for text, s in zip(texts, (one, other), strict=True))
        edge = Edge(0, 1) if style.judge_prefers_first(texts[0], texts[1], rng) else Edge(1, 0)
        trees.append(PreferenceTree(prompt, nodes, (edge,), prompt_token_ids=tuple(prompt_ids)))
    return trees


def _tune(how: StyleStart, target: Path) -> None:
    """DPO of the reference on the judge's pairs."""
    trees, _ = read_trees(target / "offline.jsonl")
    arguments = PreferenceConfig(
        str(target / "dpo"), learning_rate=how.dpo_learning_rate, num_train_epochs=how.dpo_epochs, beta=how.beta, sft_weight=how.sft_weight,
        per_device_train_batch_size=8, seed=how.seed, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
        save_strategy="no", report_to="none", monitor_3d=False, max_length=None, logging_steps=50,
    )  # fmt: skip
    trainer = PreferenceTrainer(
        model=load_model(str(target / "reference"), dtype="float32"),
        args=arguments,
        train_dataset=Dataset.from_list([to_record(tree) for tree in trees]),
        processing_class=style.tokenizer(),
    )
    from transformers import ProgressCallback

    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(CompactProgress(f"DPO of it, seed {how.seed}"))
    trainer.train()
    trainer.save_model(str(target / "policy"))
    shutil.rmtree(target / "dpo", ignore_errors=True)
