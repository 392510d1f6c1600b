"""A recipe of two rounds on a tiny random model, and what its tests look into."""

import json
from pathlib import Path

import torch
import yaml
from conftest import byte_level_tokenizer, random_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent.parent
OTHERS = ["nothing", "anything", "all", "some"]
WORDS = ["apples", "answers", "sums", "questions", "courses", "looks", "sees", "leaves"]


def write_recipe(folder, models, **changes):
    rows = [
        {"prompt": f"What of {word}?", "chosen": " It is five.", "rejected": " It is six, of course."} for word in [*WORDS[:6], *OTHERS]
    ]
    (folder / "offline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"What of {word}?"}) + "\n" for word in WORDS))
    recipe = {
        "model": {"name_or_path": str(models / "policy"), "reference": str(models / "reference"), "dtype": "float32"},
        "data": {"train": str(folder / "offline.jsonl")},
        "rollouts": {"prompts": str(folder / "prompts.jsonl"), "samples": 6, "max_new_tokens": 16, "batch": 12, "chat": False, "temperature": 0.9},
        "rounds": {"count": 2, "replay": 0.2, "filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 3}},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "bf16": False,
            "report_to": "none", "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, "monitor_prompts": 2,
            "monitor_max_new_tokens": 4, "logging_steps": 1, "seed": 3, "disable_tqdm": True,
        },
    }  # fmt: skip
    for key, value in changes.items():
        section, name = key.split("__")
        recipe.setdefault(section, {})[name] = value
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def write_models(folder):
    for name, seed in (("policy", 0), ("reference", 1)):
        random_model(seed=seed).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    return folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logps_of(model, tree, node):
    ids = torch.tensor([list(tree.prompt_token_ids) + list(node.token_ids)])
    start = len(tree.prompt_token_ids)
    with torch.no_grad():
        return model(ids).logits.log_softmax(-1)[0, start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
