"""Training-step speed and memory: packed trees against trl.DPOTrainer and plain pair-by-pair code on the same pairs.

    python scripts/bench.py                      # every row; about half an hour on two cores, nearly all of it trl's
    python scripts/bench.py --rows pairs hh      # some rows
    python scripts/bench.py --repeats 5 --json bench.json
    python scripts/bench.py --device cuda        # the tables of bench_gpu.py

A step is loss, backward and optimizer step on one batch, the reference's forward included. Contenders take turns in
one process; the median is reported. Memory is each contender's peak above its loaded models, in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from align.engine import TokenTree
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.collator import record_of

BETA = 0.1


def tokens(n: int, rng: random.Random, vocab: int) -> list[int]:
    """`n` random tokens."""
    return [rng.randrange(3, vocab) for _ in range(n)]


def _pair(prompt: int, chosen: int, rejected: int, rng: random.Random, vocab: int) -> TokenTree:
    return TokenTree([tokens(n, rng, vocab) for n in (prompt, chosen, rejected)], [-1, 0, 0], [(1, 2)], [1.0], [0.0])


def lognormal(median: float, sigma: float, longest: int, rng: random.Random) -> int:
    """A length from a lognormal distribution, 4 to `longest`."""
    return max(4, min(longest, int(rng.lognormvariate(0.0, sigma) * median)))


def equal_pairs(vocab: int, rng: random.Random) -> list[TokenTree]:
    """8 pairs, prompt 256, responses 128."""
    return [_pair(256, 128, 128, rng, vocab) for _ in range(8)]


def long_prompts(vocab: int, rng: random.Random) -> list[TokenTree]:
    """8 pairs, prompt 1,024, responses 128."""
    return [_pair(1024, 128, 128, rng, vocab) for _ in range(8)]


def ultrafeedback(vocab: int, rng: random.Random) -> list[TokenTree]:
    """8 pairs with lengths like UltraFeedback's: short prompts, long answers, both widely spread."""
    return [_pair(*(lognormal(m, s, 1024, rng) for m, s in ((120, 0.9), (220, 0.7), (180, 0.8))), rng, vocab) for _ in range(8)]


def hh(vocab: int, rng: random.Random) -> list[TokenTree]:
    """8 pairs with lengths like HH's: conversations of many turns, short last answers."""
    return [_pair(*(lognormal(m, s, 1024, rng) for m, s in ((180, 0.9), (45, 0.8), (45, 0.8))), rng, vocab) for _ in range(8)]


def code_group(vocab: int, rng: random.Random) -> list[TokenTree]:
    """One problem, 8 programs, 7 edges: prompt 256, programs 96."""
    runs = [tokens(n, rng, vocab) for n in (256, *[96] * 8)]
    edges = [(1, i) for i in range(2, 9)]
    return [TokenTree(runs, [-1] + [0] * 8, edges, [1.0] * 7, [0.0] * 7)]


def cpo_tree(vocab: int, rng: random.Random, prompt: list[int] | None = None) -> list[TokenTree]:
    """One thought tree: few-shot prompt (1,000 if not given), 3 steps of 10 thoughts of 30 tokens, 27 edges."""
    runs, parents, edges, parent = [prompt or tokens(1000, rng, vocab)], [-1], [], 0
    for _ in range(3):
        kept = len(runs)
        runs += [tokens(30, rng, vocab) for _ in range(10)]
        parents += [parent] * 10
        edges += [(kept, kept + i) for i in range(1, 10)]
        parent = kept
    return [TokenTree(runs, parents, edges, [1.0] * 27, [0.0] * 27)]


def few_shot_trees(vocab: int, rng: random.Random) -> list[TokenTree]:
    """Four thought trees as `cpo_tree`: one few-shot prompt of 1,000 tokens, and a question of 30 each."""
    common = tokens(1000, rng, vocab)
    return [cpo_tree(vocab, rng, common + tokens(30, rng, vocab))[0] for _ in range(4)]


ROWS: dict[str, tuple[Callable[[int, random.Random], list[TokenTree]], int]] = {
    "pairs": (equal_pairs, 8192),
    "long_prompts": (long_prompts, 8192),
    "ultrafeedback": (ultrafeedback, 32000),
    "hh": (hh, 32000),
    "code_group": (code_group, 8192),
    "cpo_tree": (cpo_tree, 8192),
    "few_shot_trees": (few_shot_trees, 8192),
}


def as_pairs(trees: list[TokenTree]) -> list[dict[str, list[int]]]:
    """Every edge as prompt_ids/chosen_ids/rejected_ids, the path above it in the prompt."""

    def path(tree: TokenTree, node: int) -> list[int]:
        above = path(tree, tree.parents[node]) if tree.parents[node] >= 0 else []
        return [*above, *tree.tokens[node]]

    return [
        {"prompt_ids": path(t, t.parents[c]), "chosen_ids": list(t.tokens[c]), "rejected_ids": list(t.tokens[r])}
        for t in trees
        for c, r in t.edges
    ]


def _model(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of special tokens alone: data sets here are tokenized already."""
    from tokenizers import Tokenizer, models

    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="<pad>")), eos_token="<eos>", pad_token="<pad>"
    )


class RawDPOTrainer(DPOTrainer):
    """trl's trainer on pairs that are tokenized already."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def trl_step(trees: list[TokenTree], vocab: int) -> Callable[[], None]:
    """trl.DPOTrainer, its defaults but for precision and checkpointing (none, as everywhere here)."""
    pairs = as_pairs(trees)
    trainer = RawDPOTrainer(
        _model(vocab),
        _model(vocab),
        DPOConfig(**_settings(len(pairs))),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer(),
    )
    return _step_of(trainer)


def align_step(trees: list[TokenTree], vocab: int) -> Callable[[], None]:
    """PreferenceTrainer, all trees in one packed row."""
    args = PreferenceConfig(**_settings(len(trees)), monitor_3d=False, cache_reference=False)
    data = Dataset.from_list([record_of(tree) for tree in trees])
    return _step_of(PreferenceTrainer(_model(vocab), _model(vocab), args, train_dataset=data, processing_class=tokenizer()))


def _settings(batch_size: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch_size, "use_cpu": True, "bf16": False, "report_to": "none",
        "gradient_checkpointing": False, "max_length": None, "learning_rate": 1e-6, "beta": BETA,
    }  # fmt: skip


def _step_of(trainer: Any) -> Callable[[], None]:
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-6)
    trainer.model.train()

    def step() -> None:
        optimizer.zero_grad()
        trainer.compute_loss(trainer.model, dict(inputs)).backward()
        optimizer.step()

    return step


def plain_step(trees: list[TokenTree], vocab: int) -> Callable[[], None]:
    """The best pair-by-pair code: one sequence at a time, no padding, LM head on response tokens only."""
    policy, reference = _model(vocab), copy.deepcopy(_model(vocab)).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    pairs = as_pairs(trees)

    def logp(model: LlamaForCausalLM, prompt: list[int], response: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt + response])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
        return model.lm_head(hidden).log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()

    def step() -> None:
        optimizer.zero_grad()
        for pair in pairs:
            with torch.no_grad():
                ref = logp(reference, pair["prompt_ids"], pair["chosen_ids"]) - logp(reference, pair["prompt_ids"], pair["rejected_ids"])
            delta = logp(policy, pair["prompt_ids"], pair["chosen_ids"]) - logp(policy, pair["prompt_ids"], pair["rejected_ids"])
            (-logsigmoid(BETA * (delta - ref)) / len(pairs)).backward()
        optimizer.step()

    return step


CONTENDERS = {"trl": trl_step, "plain": plain_step, "align": align_step}


def time_row(row: str, repeats: int, contenders: list[str]) -> dict[str, list[float]]:
    """Seconds of every step of every contender, in turns; one warm-up each."""
    make, vocab = ROWS[row]
    trees = make(vocab, random.Random(0))
    steps = {name: CONTENDERS[name](trees, vocab) for name in contenders}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(row: str, contender: str) -> None:
    """Print the peak resident memory of two steps above what stood before the first, in MB. Runs in its own process."""
    make, vocab = ROWS[row]
    step = CONTENDERS[contender](make(vocab, random.Random(0)), vocab)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak starts over from here
    before = _resident("VmRSS")
    step()
    step()
    print("MB", round((_resident("VmHWM") - before) / 1e3))


def _resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def token_work_limit(trees: list[TokenTree]) -> float:
    """Tokens of all sequences of all pairs over tokens of the trees."""
    pair_tokens = sum(2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in as_pairs(trees))
    return pair_tokens / sum(len(run) for tree in trees for run in tree.tokens)


def main() -> None:
    """Run the rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", nargs="+", help=f"on a CPU of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", help=f"on a CPU of {', '.join(CONTENDERS)} (default: all)")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--parts", nargs="+", help="attention, scaling, head, collating, steps, training (default: all)")
    gpu.add_argument("--size", default="1b", choices=["1b", "tiny"], help="of the model")
    gpu.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the card in bfloat16 (default: an H100's)")
    gpu.add_argument("--steps", type=int, default=50, help="batches of the training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of each contender in a process of its own")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--memory-of", nargs=2, metavar=("ROW", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda":
        import bench_gpu

        bench_gpu.run(options)
        return
    options.rows, options.contenders = options.rows or list(ROWS), options.contenders or list(CONTENDERS)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        peak_memory(*options.memory_of)
        return
    results = {}
    print(f"{options.threads} threads, float32, 4-layer 256-wide Llama; seconds a step, median of {options.repeats} (spread), peak memory")
    for row in options.rows:
        seconds = time_row(row, options.repeats, options.contenders)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        memory = {} if options.no_memory else {name: _memory_in_own_process(row, name, options.threads) for name in options.contenders}
        trees = ROWS[row][0](ROWS[row][1], random.Random(0))
        results[row] = {"seconds": seconds, "median": medians, "memory_mb": memory, "token_work_limit": token_work_limit(trees)}
        cells = [_cell(name, seconds[name], memory.get(name)) for name in medians]
        ratios = [f"{n} ÷ align = {m / medians['align']:.2f}" for n, m in medians.items() if n != "align" and "align" in medians]
        print(f"{row:14s} {'  '.join(cells)}  |  {'  '.join(ratios)}  token-work limit {results[row]['token_work_limit']:.2f}", flush=True)
    if options.json:
        with open(options.json, "w") as out:
            json.dump(results, out, indent=1)


def _cell(name: str, seconds: list[float], memory: int | None) -> str:
    peak = "" if memory is None else f" {memory:5d} MB"
    return f"{name} {statistics.median(seconds):7.3f} s ({min(seconds):.3f}–{max(seconds):.3f}){peak}"


def _memory_in_own_process(row: str, contender: str, threads: int) -> int:
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", row, contender]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.split("MB")[-1])


if __name__ == "__main__":
    main()
