"""Memory and time from a preference file to the first step of its training, by the number of records.

    python scripts/bench_data.py                             # 10,000, 50,000 and 200,000 pairs; about ten minutes on two cores
    python scripts/bench_data.py --pairs 2000 20000 --form trees

Every size is a process of its own, which makes the trainer of a recipe (as `align train` and the training stage of a run do) and takes
one step with a model of two narrow layers: what is measured is the data's way. Lengths are about UltraFeedback's, 1 kB a prompt and
1.2 kB a response. Printed are

resident   the most memory that the process held, pages of mapped files included (VmHWM)
own        the most of it that is no page of a file, which the system cannot take back
to data    seconds from the start of reading to the trainer, ready
to step    seconds from the start of reading to the end of the first step; CPU s are those of all its threads, which other work on the
           machine hardly changes
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

FORMS = ("text", "messages", "trees")
STATUS = Path("/proc/self/status")


def words(rng: random.Random) -> list[str]:
    """Four thousand made-up words."""
    syllables = [c + v for c in "bdfgklmnprstvw" for v in ("a", "e", "i", "o", "u", "ea", "ou")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(4000)]


def text(rng: random.Random, vocabulary: list[str], characters: int) -> str:
    """Running text of about so many characters: a few words often, most of them rarely."""
    ranks = [min(int(rng.paretovariate(0.7)), len(vocabulary)) - 1 for _ in range(characters // 6)]
    return " ".join(vocabulary[rank] for rank in ranks) + "."


def record(form: str, prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """A pair in one of the forms."""
    if form == "text":
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    asked = [{"role": "user", "content": prompt}]
    if form == "trees":
        return {"prompt": asked, "nodes": [{"text": chosen}, {"text": rejected}], "edges": [{"chosen": 0, "rejected": 1}]}
    return {
        "prompt": prompt, "prompt_id": "0", "score_chosen": 8.0, "score_rejected": 5.0, "messages": None,
        "chosen": [*asked, {"role": "assistant", "content": chosen}], "rejected": [*asked, {"role": "assistant", "content": rejected}],
    }  # fmt: skip


def write_pairs(path: Path, form: str, count: int) -> None:
    """A JSONL file of pairs, no two the same. Texts are cut out of one long one: making them up each would take longer than to train."""
    rng = random.Random(0)
    long = text(rng, words(rng), 2_000_000)

    def cut(mean: int) -> str:
        length = max(30, int(rng.lognormvariate(0, 0.6) * mean * 0.85))
        start = rng.randrange(len(long) - length)
        return long[start : start + length].strip()

    with open(path, "w", encoding="utf-8") as out:
        for number in range(count):
            out.write(json.dumps(record(form, f"{number}: {cut(1000)}", f"1 {cut(1200)}", f"2 {cut(1200)}")) + "\n")


def write_model(folder: Path) -> None:
    """Two layers of width 32, and a tokenizer of 4,096 tokens that was made from the same words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(0)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings: dict[str, Any] = {"vocab_size": 4096, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    core.train_from_iterator([text(rng, words(rng), 500_000)], trainers.BpeTrainer(special_tokens=["<pad>", "<eos>"], **settings))
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eos>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", chat_template=template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=8192, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resident(name: str) -> float:
    """Megabytes of a line of /proc/self/status, `VmHWM` or `RssAnon`."""
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith(name))


class Watch(threading.Thread):
    """Reads the process's own memory every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(0.02)


def first_step(model: str, data: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Make the trainer, take a step, and tell what it took."""
    from align import experiment, recipes

    watch = Watch()
    watch.start()
    training = {
        "output_dir": folder, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "disable_tqdm": True, "max_steps": 1,
        "monitor_3d": False, "save_strategy": "no", "max_length": 2048, "per_device_train_batch_size": 4, **options["training"],
    }  # fmt: skip
    raw = {"model": {"name_or_path": model, "dtype": "float32"}, "data": {"train": data, **options["data"]}, "training": training}
    recipe = recipes.parse(raw, "bench")
    imported = resident("VmHWM")
    began, worked = time.monotonic(), time.process_time()
    trainer = experiment.make_trainer(recipe, model, "bench", Path(folder))
    ready = time.monotonic() - began
    trainer.train()
    return {
        "records": len(trainer.train_dataset), "imported MB": imported, "resident MB": resident("VmHWM"),
        "own MB": max(watch.most, resident("RssAnon")), "to data s": ready, "to step s": time.monotonic() - began,
        "CPU s": time.process_time() - worked,
    }  # fmt: skip


def measure(model: Path, data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """`first_step` in a process of its own, with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "HF_DATASETS_CACHE": f"{folder}/cache",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, __file__, "--child", str(model), str(data), folder, json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Measure and print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--form", choices=FORMS, default="text")
    parser.add_argument("--parquet", action="store_true", help="read a Parquet file instead of a JSONL file")
    parser.add_argument("--model", type=Path, help="a model's folder (default: a random one)")
    parser.add_argument(
        "--training", type=json.loads, default={}, help="further settings as JSON, such as '{\"max_tokens_per_batch\": 8192}'"
    )
    parser.add_argument("--data", type=json.loads, default={}, help="further settings of `data`, as JSON")
    parser.add_argument("--child", nargs=4, metavar=("MODEL", "DATA", "FOLDER", "OPTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(first_step(*options.child[:3], json.loads(options.child[3]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, data = options.model or Path(folder) / "model", Path(folder) / "pairs.jsonl"
        if options.model is None:
            write_model(model)
        columns = ("imported MB", "resident MB", "own MB", "to data s", "to step s", "CPU s")
        print(f"{'pairs':>8} {'file MB':>9}" + "".join(f"{name:>13}" for name in (*columns, "ms a pair")))
        for count in options.pairs:
            write_pairs(data, options.form, count)
            source = data
            if options.parquet:
                from datasets import Dataset

                source = data.with_suffix(".parquet")
                Dataset.from_json(str(data), cache_dir=f"{folder}/cache").to_parquet(str(source))
            told = measure(model, source, {"training": options.training, "data": options.data})
            assert told["records"] == count, told
            numbers = [told[name] for name in columns] + [1000 * told["to step s"] / count]
            cells = "".join(f"{number:13.{3 if number < 100 else 0}f}" for number in numbers)
            print(f"{count:8,} {source.stat().st_size / 2**20:9.0f}{cells}", flush=True)


if __name__ == "__main__":
    main()
