"""A recipe as it is rehearsed: the same method, data, tokenizer and template, with a handful of records and two steps of training."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from align import recipes
from align.recipes import Recipe
from align.rehearsal.models import small_model

RECORDS, QUESTIONS, SAMPLES, STEPS, BATCH = 8, 3, 4, 2, 2
MADE_HERE = 24  # questions, prompts, problems of the micro tasks: their small models are real ones, and write what they write
FEW = 0.5  # of a handful of records so many may be unusable; whole sets are read with the recipe's own limit
ROUNDS = 4
LEFT_OUT = {
    "global_batch_size", "gradient_accumulation_steps", "resume_from_checkpoint", "push_to_hub", "hub_model_id", "hub_strategy",
    "hub_token", "run_name", "deepspeed", "fsdp", "fsdp_config", "torch_compile", "dataset_num_proc", "dataloader_num_workers",
}  # fmt: skip
"""Training settings that speak of many GPUs, of the world outside, or of a run that was begun."""
AT_MOST = {
    "per_device_train_batch_size": (8, BATCH), "per_device_eval_batch_size": (8, BATCH), "monitor_prompts": (8, BATCH),
    "monitor_max_new_tokens": (48, 8),
}  # fmt: skip
"""Training settings with their defaults, and what they are at most."""
SET_HERE = (
    *(f"training.{key}" for key in (*LEFT_OUT, *AT_MOST, "max_steps", "save_", "eval_", "logging_", "report_to", "bf16", "fp16", "optim")),
    *(f"rollouts.{key}" for key in ("limit", "samples", "max_new_tokens", "engine", "url", "options")), "rounds.filter.min_responses",
)  # fmt: skip
"""Beginnings of keys that no round may change back."""


class Weights(Enum):
    """What stands in the place of a recipe's models."""

    SMALL = "small"
    """Random ones of the same architecture."""
    REAL = "real"
    """Nothing: they are loaded themselves."""


@dataclass(frozen=True)
class Machine:
    """What this machine can do.

    Attributes:
        gpu: it has one.
        vllm, bitsandbytes: they are installed.
    """

    gpu: bool
    vllm: bool
    bitsandbytes: bool


def this_machine() -> Machine:
    """The machine at hand."""
    import torch

    installed = {name: importlib.util.find_spec(name) is not None for name in ("vllm", "bitsandbytes")}
    return Machine(torch.cuda.is_available(), **installed)


class Rehearsed:
    """Makes the recipes of a rehearsal, and notes in `replaced` what is not as it will be: a sentence each."""

    def __init__(self, folder: Path, weights: Weights, machine: Machine) -> None:
        """Args: where models and runs go; what stands for the models; what can be had here."""
        self._folder, self._weights, self._machine = folder, weights, machine
        self._models: dict[tuple[str, bool], str] = {}
        self.replaced: list[str] = []

    def recipe(self, recipe: Recipe, label: str) -> Recipe:
        """A recipe without variants as it is rehearsed.

        Raises:
            AlignError: one of its models cannot be had.
        """
        raw = recipe.model_dump()
        micro = recipe.model.name_or_path.startswith("micro:")
        self._shrink_models(raw)
        if raw["rounds"]:
            self._fewer_rounds(raw["rounds"])
        if recipe.rollouts:
            self._rollouts(raw, micro)
        for changes in (raw["rounds"] or {}).get("overrides", []):  # what a rehearsal sets stays set in every round
            for key in [key for key in changes if key.startswith(SET_HERE)]:
                del changes[key]
        sections = {"rounds": self._rewards, "thoughts": _narrow}
        if recipe.method.key in sections:
            sections[recipe.method.key](raw[recipe.method.key], micro)
        for suite in raw["measure"]:
            _shorten(suite, micro)
        if not recipe.method.makes_preferences:
            raw["data"]["limit"] = _least(raw["data"]["limit"], 2 * MADE_HERE if micro else RECORDS)
        self._training(raw["training"], self._folder / label)
        raw["training"]["max_rejected_share"] = max(FEW, raw["training"].get("max_rejected_share", recipe.data.max_rejected_share))
        if recipe.method.share_is_of_the_limited:
            raw["data"]["max_rejected_share"] = max(FEW, recipe.data.max_rejected_share)
        self._resources(raw)
        return recipes.parse(raw, f"rehearsal of {label}")

    def note(self, sentence: str) -> None:
        """Note what is not as it will be."""
        if sentence not in self.replaced:
            self.replaced.append(sentence)

    def _shrink_models(self, raw: dict[str, Any]) -> None:
        model = raw["model"]
        if not self._machine.gpu:
            if self._weights is Weights.SMALL and model["dtype"] != "float32":
                self.note(f"model.dtype: float32 in the place of {model['dtype']}, since there is no GPU")
                model["dtype"] = "float32"
            if str(model["attn_implementation"]) not in ("None", "eager", "sdpa"):
                self.note(f"model.attn_implementation: sdpa in the place of {model['attn_implementation']}, since there is no GPU")
                model["attn_implementation"] = "sdpa"
        if model["quantization"] and not self._machine.bitsandbytes:
            self.note(f"model.quantization: left out ({model['quantization']} needs bitsandbytes, which is not installed)")
            model["quantization"] = None
        own = {"revision": model["revision"], "trust_remote_code": model["trust_remote_code"]}
        for key in ("name_or_path", "reference"):
            self._shrink(model, key, reward=False, **(own if key == "name_or_path" else {"trust_remote_code": own["trust_remote_code"]}))
        if self._weights is Weights.SMALL and not model["name_or_path"].startswith("micro:"):
            model["revision"] = None
        judges = [*(raw["rounds"] or {}).get("scorers", []), *([raw["thoughts"]["judge"]] if raw["thoughts"] else [])]
        for judge in judges:
            self._shrink(judge["options"], "model", reward=judge["name"] == "reward_model")

    def _shrink(self, section: dict[str, Any], key: str, *, reward: bool, **options: Any) -> None:
        """Put a small model into the place of one that a section names."""
        name = section.get(key)
        if name is None or str(name).startswith("micro:") or self._weights is Weights.REAL:
            return
        if (name, reward) not in self._models:
            folder = self._folder / "models" / f"{len(self._models)}-{Path(name).name}"
            parameters = small_model(str(name), folder, reward=reward, **options)
            self._models[name, reward] = str(folder)
            self.note(f"{name}: a random model of its architecture with {parameters:,} parameters, and its own tokenizer")
        section[key] = self._models[name, reward]

    def _rollouts(self, raw: dict[str, Any], micro: bool) -> None:
        rollouts = raw["rollouts"]
        records = MADE_HERE if micro else QUESTIONS if raw["thoughts"] else RECORDS
        if raw["rounds"] and raw["rounds"]["prompts"] == "split":
            records = max(records, 4 * raw["rounds"]["count"])
        rollouts["limit"] = _least(rollouts["limit"], records)
        if not micro:
            rollouts["samples"] = min(rollouts["samples"], SAMPLES)
            rollouts["max_new_tokens"] = min(rollouts["max_new_tokens"], 24 if self._weights is Weights.SMALL else 256)
        engine = rollouts["engine"]
        if engine == "server" and rollouts["url"] is not None and self._weights is Weights.SMALL:
            engine = "vllm"
            self.note(f"rollouts.engine: an engine of its own in the place of {rollouts['url']}, which serves another model")
        if engine != "transformers" and not self._machine.vllm:
            self.note(f"rollouts.engine: transformers in the place of {engine}, since vLLM is not installed: its options are not tried")
            engine, rollouts["options"] = "transformers", {}
        if engine != rollouts["engine"]:
            rollouts |= {"engine": engine, "url": None}
        if "speculative_config" in rollouts["options"]:
            self.note("rollouts.options.speculative_config: left out")
            rollouts["options"] = {key: value for key, value in rollouts["options"].items() if key != "speculative_config"}

    def _fewer_rounds(self, rounds: dict[str, Any]) -> None:
        """Rounds that repeat those before them are left out: all with overrides of their own stay, and two more."""
        few = max(ROUNDS, len(rounds["overrides"]) + 2)
        if rounds["count"] > few:
            self.note(f"rounds.count: {few} in the place of {rounds['count']}")
            rounds["count"] = few

    def _rewards(self, rounds: dict[str, Any], micro: bool) -> None:
        rounds["filter"]["min_responses"] = min(rounds["filter"]["min_responses"], 2)
        for scorer in rounds["scorers"]:
            if scorer["name"] != "llm":
                continue
            if self._weights is Weights.SMALL:
                self.note("rounds.scorers: the number of characters in the place of llm, since a random model writes no grade")
                scorer |= {"name": "function", "options": {"function": f"{__name__}:characters"}}
            elif not self._machine.vllm and scorer["options"].get("engine") == "vllm":
                self.note("rounds.scorers: transformers as the engine of llm, since vLLM is not installed")
                scorer["options"]["engine"] = "transformers"
        if rounds["policy_scores"] == "sampler" and not micro:
            self.note("rounds.policy_scores: rescore, since written responses have no log-probs of a sampler")
            rounds["policy_scores"] = "rescore"
        if not micro:
            rounds["reference_samples"] = min(rounds["reference_samples"], SAMPLES)

    def _training(self, training: dict[str, Any], folder: Path) -> None:
        for key in LEFT_OUT & training.keys():
            del training[key]
        for key, (default, most) in AT_MOST.items():
            training[key] = min(training.get(key, default), most)
        for key in ("save_strategy", "eval_strategy"):
            if training.get(key, "no") != "no":
                training[key] = "steps"
        training |= {
            "output_dir": str(folder), "max_steps": STEPS, "logging_steps": 1, "save_steps": 1, "eval_steps": 1, "report_to": "none",
            "reference_cache_dir": str(self._folder / "cache"),
        }  # fmt: skip
        if not self._machine.gpu:
            training |= {"use_cpu": True, "bf16": False, "fp16": False}
            training.pop("tf32", None)
            if "optim" in training and not re.fullmatch("adamw_torch|sgd|adafactor", str(training["optim"])):
                self.note(f"training.optim: adamw_torch in the place of {training['optim']}, since there is no GPU")
                training["optim"] = "adamw_torch"

    def _resources(self, raw: dict[str, Any]) -> None:
        resources = raw["resources"]
        if resources["accelerate"] and not self._machine.gpu:
            self.note(f"resources.accelerate: one process in the place of {resources['accelerate']}, since there is no GPU")
            resources["accelerate"] = None
        resources["processes"] = 1
        if self._weights is Weights.SMALL:
            resources["tensor_parallel"] = 1


def characters(prompt: object, response: str) -> float:
    """What stands for a model's grade of a response in a rehearsal."""
    return float(len(response))


def _narrow(thoughts: dict[str, Any], micro: bool) -> None:
    """Two judgements of a path; a narrow search, where nothing depends on what it finds."""
    thoughts["judge"]["votes"] = 2  # the first is the model's own, the second is written
    if not micro:
        for name in ("keep", "keep_at_most"):
            thoughts[name] = _least(thoughts[name], SAMPLES)


def _shorten(suite: dict[str, Any], micro: bool) -> None:
    """A handful of questions."""
    suite["problems"] = _least(suite["problems"], MADE_HERE if micro else QUESTIONS)
    if "samples" in suite:
        suite["samples"] = min(suite["samples"], BATCH)


def _least(limit: int | None, most: int) -> int:
    return most if limit is None else min(limit, most)
