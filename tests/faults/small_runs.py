"""Recipes of the three methods on a random model, small enough that a whole run costs seconds."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import toy_plan
import yaml
from conftest import byte_level_tokenizer, random_model

from align import plans, recipes
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.rollouts.scripted_engine import Script

WORDS = ["apples", "answers", "sums", "questions"]
TRAINING = {
    "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "bf16": False, "report_to": "none", "seed": 3,
    "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "monitor_prompts": 1,
    "monitor_max_new_tokens": 2, "logging_steps": 1, "disable_tqdm": True,
}  # fmt: skip


@dataclass(frozen=True)
class SmallRun:
    """A run in small.

    Attributes:
        recipe: its file.
        folder: the run's.
        stages: by name, in order.
        script: of its sampling, if it has one.
        is_toy: whether its stages are those of `toy_stages` in the place of the recipe's.
    """

    recipe: Path
    folder: Path
    stages: tuple[str, ...]
    script: Path | None = None
    is_toy: bool = False


def write_models(folder: Path) -> Path:
    """`policy` and `reference` below a folder."""
    for name, seed in (("policy", 0), ("reference", 1)):
        random_model(seed=seed).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    return folder


def dice(folder: Path, models: Path) -> SmallRun:
    """Two rounds of DICE, with replay."""
    pairs = [{"prompt": f"What of {word}?", "chosen": " It is five.", "rejected": " It is six."} for word in ["nothing", "all", *WORDS]]
    recipe = {
        "model": {"name_or_path": str(models / "policy"), "reference": str(models / "reference"), "dtype": "float32"},
        "data": {"train": _lines(folder / "offline.jsonl", pairs)},
        "rollouts": {
            "prompts": _lines(folder / "prompts.jsonl", [{"prompt": f"What of {word}?"} for word in WORDS] + [{"prompt": 5}]),
            "samples": 4, "max_new_tokens": 8, "batch": 8, "chat": False, "temperature": 0.9,
        },
        "rounds": {"count": 2, "replay": 0.2, "filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 2}},
        "training": TRAINING,
    }  # fmt: skip
    return _written(folder, recipe)


def cpo(folder: Path, models: Path) -> SmallRun:
    """CPO with LoRA; thoughts end at an `e` or `a`, and the judge likes short ones."""
    task = {
        "description": "two steps", "data": {"fields": {"question": "question"}, "gold": "answer"}, "question": "Question: {question}\n",
        "steps": 2, "markers": ["e", "a"], "end": ["\n\n"], "max_new_tokens": 30, "answer": r"(\w+)", "grader": {"name": "text"},
        "judge": {"step": {"ask": "Evaluation: "}},
    }  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    rows = [{"question": f"What of {word}?", "answer": "five"} for word in WORDS]
    recipe = {
        "model": {"name_or_path": str(models / "policy"), "dtype": "float32", "lora": {"r": 4, "dropout": 0.0}},
        "rollouts": {"prompts": _lines(folder / "questions.jsonl", rows), "samples": 4, "temperature": 1.0, "batch": 32},
        "thoughts": {"task": str(folder / "task.yaml"), "judge": {"name": "length"}, "min_characters": 1, "together": 2},
        "training": TRAINING,
        "measure": [{"suite": "questions", "data": _lines(folder / "test.jsonl", rows[:1])}],
    }  # fmt: skip
    return _written(folder, recipe)


def code(folder: Path, models: Path) -> SmallRun:
    """Code preferences on written programs: right, wrong and broken ones."""
    problems = [
        {
            "id": f"p{n}",
            "prompt": f"add {n}\n",
            "tests": f"assert f(1) == {n + 1}",
            "entry_point": "f",
            "solution": f"def f(x): return x+{n}",
        }
        for n in range(1, 4)
    ]
    recipe = {
        "model": {"name_or_path": str(models / "policy"), "dtype": "float32"},
        "rollouts": {"prompts": _lines(folder / "problems.jsonl", problems), "samples": 4, "max_new_tokens": 8, "batch": 8, "chat": False},
        "code": {"decontaminate": [_lines(folder / "benchmark.jsonl", problems[:1])], "sandbox": {"seconds": 2.0, "isolation": "limits-only"}},
        "training": TRAINING,
    }  # fmt: skip
    programs = {
        prompt_id(f"add {n}\n"): [f"def f(x): return x+{n}", f"def f(x): return x-{n}", f"def f(x) return {n}"] for n in range(1, 4)
    }
    Script(programs).write(folder / "script.json")
    return _written(folder, recipe, folder / "script.json")


def toy(folder: Path, models: Path) -> SmallRun:
    """Numbers in a journal, their sum, a copy of it: what the runs package does, and nothing else."""
    written = _written(folder, {"model": {"name_or_path": str(models / "policy")}, "data": {"train": str(models)}})
    return replace(written, stages=tuple(stage.name for stage in toy_plan.stages()), is_toy=True)


METHODS = {"dice": dice, "cpo": cpo, "code": code, "toy": toy}


def _written(folder: Path, recipe: dict, script: Path | None = None) -> SmallRun:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "training": {**TRAINING, "output_dir": str(folder / "run")}}))
    (planned,) = plans.runs_of(recipes.load(folder / "recipe.yaml"))
    return SmallRun(folder / "recipe.yaml", folder / "run", tuple(stage.name for stage in planned.stages), script)


def _lines(path: Path, records: list) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
