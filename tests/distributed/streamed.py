"""Trains on a stream of trees over as many ranks as torchrun starts, and prints the curve, of training and of evaluation."""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.trainers import PreferenceConfig, PreferenceTrainer


def main(folder: Path, output: Path) -> None:
    """Four trees a step, however many ranks there are; the stream ends within a round."""
    records = [json.loads(line) for line in (folder / "trees.jsonl").read_text(encoding="utf-8").splitlines()]
    args = PreferenceConfig(
        str(output), use_cpu=True, bf16=False, max_steps=14, per_device_train_batch_size=4 // int(os.environ["WORLD_SIZE"]), logging_steps=1,
        learning_rate=1e-3, report_to="none", save_strategy="no", eval_strategy="steps", eval_steps=14, per_device_eval_batch_size=2,
        gradient_checkpointing=False, max_length=128, monitor_3d=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = PreferenceTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(records).to_iterable_dataset(),
        eval_dataset=Dataset.from_list(records[:7]).to_iterable_dataset(),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        (evaluated,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        print(json.dumps({"losses": [s["loss"] for s in steps], "margins": [s["rewards/margins"] for s in steps], "eval": [evaluated]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
