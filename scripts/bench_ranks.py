"""Tokens a second of one process and of two, one thread each: what a second rank is worth.

    python scripts/bench_ranks.py                    # two minutes; trees of unequal sizes, dealt by tokens

The same steps (16 trees each) by one process and by two, in turn; medians are reported. Start-up and the first steps do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SKIPPED = 2  # steps until everything is warm
LENGTHS = (40, 600)


def main() -> None:
    """Run the contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.steps)
        return
    found: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(options.rounds):
        for processes in (1, 2) if turn % 2 == 0 else (2, 1):
            found[processes].append(_run(processes, options.steps))
    print(f"tokens a second, median of {options.rounds} rounds")
    for processes, rates in found.items():
        print(f"processes {processes}{statistics.median(rates):10.0f}   from {min(rates):.0f} to {max(rates):.0f}")
    ratio = statistics.median(two / one for one, two in zip(found[1], found[2], strict=True))
    print(f"two are worth {ratio:.2f} of one")


def _run(processes: int, steps: int) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [*command, __file__, "--worker", "--steps", str(steps)], env=environment, capture_output=True, text=True, check=False
    )
    if found.returncode:
        sys.exit(found.stderr)
    return float(json.loads(next(line for line in found.stdout.splitlines() if '"rate"' in line))["rate"])


def worker(steps: int) -> None:
    """Train, and print the rate of the steps that count."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

    from align.trainers import PreferenceConfig, PreferenceTrainer
    from data_pipelines.micro.scratch import character_tokenizer

    class Clock(TrainerCallback):
        times: list[float] = []

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            self.times.append(time.monotonic())

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 4096}
    models = [LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=2048)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    tokenizer: PreTrainedTokenizerFast = character_tokenizer("abc")
    draw = random.Random(0)

    def run(length: int) -> list[int]:
        return [draw.randrange(4, 4096) for _ in range(length)]

    rows = [{"prompt_ids": run(draw.randint(*LENGTHS)), "chosen_ids": run(draw.randint(*LENGTHS) // 2), "rejected_ids": run(60)}
            for _ in range(16 * steps)]  # fmt: skip
    from datasets import Dataset

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = PreferenceConfig(
            folder, use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=4, global_batch_size=16, max_length=None,
            num_train_epochs=1, save_strategy="no", monitor_3d=False, gradient_checkpointing=False, disable_tqdm=True, logging_steps=steps,
        )  # fmt: skip
        trainer = PreferenceTrainer(models[0], models[1], args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.add_callback(clock)
        trainer.train()
    tokens = sum(len(run) for row in rows for run in row.values()) * (steps - SKIPPED) / steps
    if trainer.accelerator.is_main_process:
        print(json.dumps({"rate": tokens / (clock.times[-1] - clock.times[SKIPPED - 1])}), flush=True)


if __name__ == "__main__":
    main()
