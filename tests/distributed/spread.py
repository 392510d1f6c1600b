"""One recipe under every way of distributing it: what the tests here share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from conftest import byte_level_tokenizer, random_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
MODES = ("ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")
TREES = 37  # nine rounds of four trees, and one tree that is alone in its round
WORDS = ["five", "apples", "are", "left", "because", "of", "course", "the", "sum", "is", "seventeen"]


def write_inputs(folder: Path) -> None:
    """A model, and trees of unequal sizes: pairs, groups, and two steps."""
    model = random_model(scale=0.1)
    model.save_pretrained(folder / "model")
    byte_level_tokenizer().save_pretrained(folder / "model")
    draw = random.Random(0)

    def words() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))

    with open(folder / "trees.jsonl", "w", encoding="utf-8") as out:
        for number in range(TREES):
            count = draw.randint(2, 5)
            nodes = [{"text": f"{words()} {place}."} for place in range(count)]
            edges = [{"chosen": 0, "rejected": place} for place in range(1, count)]
            if number % 3 == 0:
                nodes += [{"text": f" So {words()}.", "parent": 0}, {"text": f" Then {words()}!", "parent": 0}]
                edges.append({"chosen": count, "rejected": count + 1})
            out.write(json.dumps({"prompt": f"Question {number}: {words()}?\n", "nodes": nodes, "edges": edges}) + "\n")


def write_recipe(folder: Path, name: str, **training: Any) -> Path:
    """The recipe, with changes."""
    settings = {
        "output_dir": str(folder / name), "learning_rate": 1e-3, "lr_scheduler_type": "linear", "num_train_epochs": 2,
        "per_device_train_batch_size": 2, "global_batch_size": 4, "logging_steps": 1, "save_strategy": "steps", "save_steps": 7,
        "bf16": False, "max_length": 128, "report_to": "none", "monitor_prompts": 2, "monitor_max_new_tokens": 4, "gradient_checkpointing": False,
        "reference_cache_dir": str(folder / f"{name}-reference"), **training,
    }  # fmt: skip
    recipe = {
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "data": {"train": str(folder / "trees.jsonl")},
        "training": settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def on_cpu(folder: Path, mode: str, processes: int = 2) -> Path:
    """The accelerate configuration that align ships, on the CPU of this machine."""
    config = yaml.safe_load((ROOT / "recipes/accelerate" / f"{mode}.yaml").read_text(encoding="utf-8"))
    config |= {"use_cpu": True, "mixed_precision": "no", "num_processes": processes}
    path = folder / f"accelerate-{mode}-{processes}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def command(config: Path, recipe: Path, *overrides: str) -> list[str]:
    """What a person types."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--main_process_port", "0"]
    program = ["-m", "align.train"]
    if "fsdp2" in config.name:
        program = [str(Path(__file__).with_name("fsdp_on_cpu.py"))]
    elif "zero3" in config.name:
        program = [str(Path(__file__).with_name("small_chunks.py"))]
    return [*launch, *program, str(recipe), *overrides]


def environment() -> dict[str, str]:
    """One thread a process, DeepSpeed on the CPU, what it compiles kept with this Python's packages: each has its own headers."""
    compiled = Path(sys.prefix) / "torch_extensions"
    for lock in compiled.glob("*/*/lock"):  # of a process that was killed while it compiled: the next would wait for it for ever
        if time.time() - lock.stat().st_mtime > 600:
            lock.unlink(missing_ok=True)
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **settings, "TORCH_EXTENSIONS_DIR": str(compiled)}


def train(config: Path, recipe: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(config, recipe, *overrides), env=environment(), capture_output=True, text=True, timeout=600, check=False)


def run_script(script: str, processes: int, *arguments: object) -> str:
    """What a script of this folder prints, run by so many ranks to its end."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words = [*launch, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def start(config: Path, recipe: Path, log: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start it, in a group of its own; what it says goes to a file."""
    with open(log, "w", encoding="utf-8") as out:
        return subprocess.Popen(
            command(config, recipe, *overrides), env=environment(), stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def ranks(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, the first rank first."""
    found = [child for child in psutil.Process(launcher.pid).children(recursive=True) if "RANK" in child.environ()]
    return sorted(found, key=lambda process: int(process.environ()["RANK"]))


@dataclass(frozen=True)
class Curve:
    """What a training has logged, step by step."""

    losses: list[float]
    margins: list[float]
    chosen: list[float]


def curve(checkpoint: Path) -> Curve:
    """The curve that led to a checkpoint."""
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    return Curve(*([entry[key] for entry in steps] for key in ("loss", "rewards/margins", "3d/chosen_drift")))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model."""
    return load_file(folder / "model.safetensors")


def log_probs(folder: Path) -> torch.Tensor:
    """What plain transformers, in one process, makes of a saved model."""
    return log_probs_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def log_probs_of(model: torch.nn.Module) -> torch.Tensor:
    """A model's log-probs of some tokens."""
    ids = torch.randint(4, 400, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits.log_softmax(-1).gather(-1, ids.roll(-1, 1)[..., None])
