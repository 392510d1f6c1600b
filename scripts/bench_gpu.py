"""The tree engine on one GPU: attention backends, training steps against trl.DPOTrainer, the LM head, compilations, waits.

    python scripts/bench.py --device cuda                      # everything; about six minutes on an H100
    python scripts/bench.py --device cuda --parts steps --rows pairs cpo
    python scripts/bench.py --device cuda --size tiny          # a small model, to try the script

Needs torch, transformers, trl and, for its rows, liger-kernel. A step is loss, backward, fused AdamW and the reference's
forward, without gradient checkpointing; medians. MFU: the model's own floating-point operations over `--peak` TFLOP/s.
Memory is the peak above the loaded models. trl runs with the micro-batch that is quickest for it, its best of several.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from bench import RawDPOTrainer, as_pairs, tokenizer, tokens
from datasets import Dataset
from gpu_rows import ROWS, TRL_BATCHES, UF_LENGTHS, VOCAB, pairs, spread
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import DPOConfig

from align.engine import Layout, TokenTree, TreeBatch, fused, lm_head, pack
from align.engine.attention import BACKENDS, plans, tree_attention
from align.engine.row_lengths import RowLengths
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.collator import record_of

SIZES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}
HEAD_DIM = 64
CONTENDERS: dict[str, dict[str, Any]] = {
    "align": {},
    "align, compiled": {"torch_compile": True},
    "align, Liger": {"use_liger_kernel": True},
}


class Bench:
    """What all parts share: the model's size, the card's peak, the figures so far."""

    def __init__(self, size: str, peak: float, repeats: int) -> None:
        self.size, self.peak, self.repeats = SIZES[size], peak * 1e12, repeats
        self.figures: dict[str, Any] = {}

    def model(self) -> LlamaForCausalLM:
        """The policy or the reference: a random Llama in bfloat16."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB, **self.size, head_dim=HEAD_DIM, max_position_embeddings=16384, tie_word_embeddings=True, pad_token_id=0,
            eos_token_id=1, bos_token_id=2,
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            made = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
        return made

    def operations(self, batch: TreeBatch) -> float:
        """Floating-point operations of a step: policy forward and backward, reference forward; 2 for a multiplication and addition."""
        size = self.size
        width, layers = size["hidden_size"], size["num_hidden_layers"]
        heads, kv_heads = size["num_attention_heads"], size["num_key_value_heads"]
        body = layers * (width * heads * HEAD_DIM * 2 + 2 * width * kv_heads * HEAD_DIM + 3 * width * size["intermediate_size"])
        used = [span for span in batch.layout.spans if span.start < batch.layout.used]
        attended = sum((s.end - s.start) * (s.depth + (s.end - s.start + 1) / 2) for s in used)
        return 8 * body * batch.layout.used + 8 * width * VOCAB * len(batch.labels) + layers * 16 * heads * HEAD_DIM * attended

    # Attention alone

    def attention(self, rows: list[str]) -> None:
        """Milliseconds of one layer's attention, forward and backward, and the relative error of the gradients."""
        print(
            "\nAttention: ms per layer, forward + backward (relative error of output and worst gradient against the dense mask in float32)"
        )
        for row in rows:
            layout = pack(ROWS[row](random.Random(0)), row_length=RowLengths(8192)).layout.to("cuda")
            cells, figures = [], {}
            exact = self._attention_once("dense", layout, torch.float32)
            used = slice(0, layout.used)
            for backend in BACKENDS:
                got = self._attention_once(backend, layout, torch.bfloat16)
                errors = [
                    ((a[:, :, used].float() - b[:, :, used]).norm() / b[:, :, used].norm()).item() for a, b in zip(got, exact, strict=True)
                ]
                seconds = self._attention_seconds(backend, layout)
                figures[backend] = {"ms": seconds * 1e3, "errors": errors}
                cells.append(f"{backend} {seconds * 1e3:.2f} ({errors[0]:.1e}, {max(errors[1:]):.1e})")
            print(f"{row:16s} {layout.used:6d} tokens, {len(layout.spans):3d} spans  {'  '.join(cells)}", flush=True)
            self.figures.setdefault("attention", {})[row] = figures
            del exact, got
            _free()

    def _draw(self, layout: Layout, dtype: torch.dtype) -> list[torch.Tensor]:
        heads, kv_heads = self.size["num_attention_heads"], self.size["num_key_value_heads"]
        torch.manual_seed(1)
        draw = [torch.randn(1, n, layout.length, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for n in (heads, kv_heads, kv_heads, heads)]
        return [x.to(dtype).requires_grad_(i < 3) for i, x in enumerate(draw)]

    def _attention_once(self, backend: str, layout: Layout, dtype: torch.dtype) -> list[torch.Tensor]:
        q, k, v, grad = self._draw(layout, dtype)
        out = tree_attention(backend, q, k, v, layout, HEAD_DIM**-0.5)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]

    def _attention_seconds(self, backend: str, layout: Layout) -> float:
        q, k, v, grad = self._draw(layout, torch.bfloat16)

        def once() -> None:
            out = tree_attention(backend, q, k, v, layout, HEAD_DIM**-0.5)
            torch.autograd.grad(out, (q, k, v), grad)

        return _seconds(once, 10)

    def scaling(self) -> None:
        """One layer's attention by the number of nodes: 8 prompts of 512, the 512 tokens after each cut into 1 to 49 responses.

        Every row has 8,192 tokens and about the same number of query-key pairs.
        """
        print("\nAttention: microseconds per 1,000 tokens and layer, by the number of nodes in the row")
        for responses in (1, 2, 4, 8, 24, 49):
            each, rest = divmod(512, responses)
            trees = []
            for number in range(8):
                rng = random.Random(number)
                runs = [tokens(n, rng, VOCAB) for n in (512, *[each] * (responses - 1), each + rest)]
                edges = [(i, i) for i in range(1, responses + 1)]
                trees.append(TokenTree(runs, [-1] + [0] * responses, edges, [1.0] * responses, [0.0] * responses))
            layout = pack(trees, row_length=RowLengths(8192)).layout.to("cuda")
            values = {b: self._attention_seconds(b, layout) * 1e9 / layout.used for b in BACKENDS if b != "dense"}
            print(f"{len(layout.spans):4d} nodes: " + "  ".join(f"{b} {v:.0f}" for b, v in values.items()), flush=True)
            self.figures.setdefault("scaling", {})[len(layout.spans)] = values

    # Whole steps

    def steps(self, rows: list[str], contenders: list[str]) -> None:
        """Steps of every row: trl at its best, and ours. Liger comes last, as it replaces functions of transformers for good."""
        figures: dict[str, Any] = self.figures.setdefault("steps", {})
        for name in contenders:
            torch._dynamo.reset()
            trainer = self._trainer(name)
            optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-6, fused=True)
            trainer.model.train()
            for row in rows:
                if name == "trl":
                    found = {f"trl, {n} pairs at a time": self._figure(trainer, optimizer, row, n) for n in TRL_BATCHES.get(row, [])}
                else:
                    found = {name: self._figure(trainer, optimizer, row, None)}
                for label, figure in found.items():
                    print(f"{row:16s} {label:24s} {_line(figure)}", flush=True)
                figures.setdefault(row, {}).update(found)
            del trainer, optimizer
            _free()
        self._summary(figures)

    def _summary(self, figures: dict[str, Any]) -> None:
        print("\nSteps: ms, MFU, peak GiB above the models, against trl at its best")
        for row, found in figures.items():
            trl = [figure for label, figure in found.items() if label.startswith("trl") and figure]
            best = min(trl, key=lambda figure: figure["ms"], default=None)
            for label, figure in found.items():
                if figure and not label.startswith("trl"):
                    ratio = f"{best['ms'] / figure['ms']:6.2f} x  memory {figure['gib'] / best['gib']:.2f} x" if best else ""
                    print(
                        f"{row:16s} {label:24s} {figure['ms']:7.1f} ms  {figure['mfu']:.1%}  {figure['gib']:5.1f} GiB  {ratio}", flush=True
                    )

    def _figure(self, trainer: Any, optimizer: Any, row: str, micro: int | None) -> dict[str, Any] | None:
        trees = ROWS[row](random.Random(0))
        operations = self.operations(pack(trees))
        examples = [record_of(tree) for tree in trees] if micro is None else as_pairs(trees)
        if trainer.args.torch_compile:
            needed = pack(trees).layout.used
            trainer._collator.row_length = RowLengths(8192 if 6144 < needed <= 8192 else needed)
        micro = micro or len(examples)
        batches = [trainer._prepare_inputs(trainer.data_collator(examples[i : i + micro])) for i in range(0, len(examples), micro)]

        def step() -> None:
            optimizer.zero_grad()
            for inputs in batches:
                (trainer.compute_loss(trainer.model, dict(inputs)) / len(batches)).backward()
            optimizer.step()

        try:
            start = time.perf_counter()
            step()
            torch.cuda.synchronize()
            first = time.perf_counter() - start
            torch.cuda.reset_peak_memory_stats()
            median = _seconds(step, self.repeats, warm=False)
            peak = torch.cuda.max_memory_allocated() - 2 * sum(p.numel() * p.element_size() for p in trainer.model.parameters())
            counted = {} if isinstance(trainer, RawDPOTrainer) else _counted(step)
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad()
            _free()
            return None
        return {"ms": median * 1e3, "mfu": operations / median / self.peak, "gib": peak / 2**30, "first": first, **counted}

    def _trainer(self, name: str) -> Any:
        """A contender, its data set no more than what its constructor asks for."""
        trees = pairs(random.Random(0))
        if name == "trl":
            data, args = Dataset.from_list(as_pairs(trees)), DPOConfig(**self._settings(16))
            return RawDPOTrainer(self.model(), self.model(), args, train_dataset=data, processing_class=tokenizer())
        args = PreferenceConfig(**self._settings(16), **CONTENDERS[name], monitor_3d=False, cache_reference=False)
        data = Dataset.from_list([record_of(tree) for tree in trees])
        trainer = PreferenceTrainer(self.model(), self.model(), args, train_dataset=data, processing_class=tokenizer())
        print(f"({name}: {trainer._backend})", flush=True)
        return trainer

    def _settings(self, count: int) -> dict[str, Any]:
        return {
            "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": count, "bf16": False, "report_to": "none", "max_length": None,
            "gradient_checkpointing": False, "learning_rate": 1e-6, "beta": 0.1,
        }  # fmt: skip

    # A training of real lengths

    def training(self, steps: int) -> None:
        """A real training of batches of real lengths, compiled: seconds to the first step, compilations and waits after the third."""
        print(f"\nTraining: {steps} batches with lengths as in UltraFeedback, rows of 8,192, compiled")
        torch._dynamo.reset()
        rng = random.Random(1)
        records = [record_of(tree) for tree in spread(8192 * steps, UF_LENGTHS, rng)]
        settings = self._settings(16) | {"max_steps": steps, "logging_steps": 1000, "save_strategy": "no"}
        args = PreferenceConfig(**settings, torch_compile=True, max_tokens_per_batch=8192, monitor_3d=False, cache_reference=False)
        trainer = PreferenceTrainer(
            self.model(), self.model(), args, train_dataset=Dataset.from_list(records), processing_class=tokenizer()
        )
        watch = _Watch()
        trainer.add_callback(watch)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer.train()
        torch.cuda.set_sync_debug_mode("default")
        waits = sorted({f"{os.path.basename(w.filename)}:{w.lineno}" for w in said if "called a synchronizing" in str(w.message)})
        later = watch.compiled_after(steps) - watch.compiled_after(3)
        seconds = watch.seconds[3:]
        print(
            f"first step {watch.seconds[0]:.1f} s, later {statistics.median(seconds) * 1e3:.0f} ms (longest {max(seconds) * 1e3:.0f}); "
            f"compilations in the first three batches {watch.compiled_after(3)}, later {later}; waits: {waits or 'none'}",
            flush=True,
        )
        self.figures["training"] = {"first": watch.seconds[0], "seconds": watch.seconds, "later_compilations": later, "waits": waits}
        _free()

    # The LM head

    def head(self) -> None:
        """The LM head on 4,096 scored tokens: forward and backward, forward alone, memory."""
        width = self.size["hidden_size"]
        weight = torch.randn(VOCAB, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        hidden = torch.randn(4096, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        labels = torch.randint(VOCAB, (4096,), device="cuda")

        def forward() -> torch.Tensor:
            return lm_head.score_tokens(lambda x: x @ weight.t(), hidden, labels, VOCAB).logps

        def both() -> None:
            torch.autograd.grad(forward().sum(), (hidden, weight))

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        total = _seconds(both, 10)
        peak = (torch.cuda.max_memory_allocated() - before) / 2**30
        with torch.no_grad():
            alone = _seconds(lambda: forward(), 10)
        print(f"\nLM head, 4,096 tokens: {total * 1e3:.1f} ms forward + backward, {alone * 1e3:.1f} forward alone, peak {peak:.1f} GiB; "
              f"compiled: {fused.works_on(torch.device('cuda', 0))}", flush=True)  # fmt: skip
        self.figures["head"] = {"both": total, "forward": alone, "gib": peak}
        _free()

    def collating(self) -> None:
        """Milliseconds of the host to lay out a row and its plans."""
        print("\nCollator: ms of the host per row")
        for row in ("pairs", "ultrafeedback", "cpo"):
            trees = ROWS[row](random.Random(0))
            values = {}
            start = time.perf_counter()
            layout = pack(trees, row_length=RowLengths(8192)).layout
            values["row"] = time.perf_counter() - start
            for name, arguments in (("levels", ()), ("paths", ()), ("blocks", (None,))):
                start = time.perf_counter()
                getattr(plans, name)(layout, *arguments)
                values[name] = time.perf_counter() - start
            print(f"{row:16s} " + "  ".join(f"{name} {value * 1e3:.1f}" for name, value in values.items()), flush=True)


class _Watch(TrainerCallback):
    """A callback: seconds of each step, compilations so far, and a warning for each wait from the fourth step on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.compilations: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn" if state.global_step >= 3 else "default")
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self.compilations.append(counters["stats"]["unique_graphs"])

    def compiled_after(self, step: int) -> int:
        """Graphs compiled up to the end of a step."""
        return self.compilations[step - 1]


def _line(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "out of memory"
    line = f"{figure['ms']:7.1f} ms ({figure['mfu']:.1%})  {figure['gib']:5.1f} GiB  first {figure['first']:.1f} s"
    return f"{line}  {figure['kernels']} kernels, {figure['operations']} operations, {figure['waits']} waits" if "waits" in figure else line


def _seconds(call: Callable[[], Any], repeats: int, limit: float = 8.0, warm: bool = True) -> float:
    """The median of several calls, the device waited for after each; of fewer, but two, where they take long."""
    if warm:
        call()
    torch.cuda.synchronize()
    seconds: list[float] = []
    while len(seconds) < repeats and (len(seconds) < 2 or sum(seconds) < limit):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _counted(step: Callable[[], None]) -> dict[str, int]:
    """Kernels and copies on the device, operations of the host, and waits for the device in one step."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    events = profiled.events()
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    operations = sum(event.name.startswith("aten::") for event in events)
    with warnings.catch_warnings(record=True) as said, _warned():
        warnings.simplefilter("always")
        step()
    return {"kernels": kernels, "operations": operations, "waits": sum("called a synchronizing" in str(w.message) for w in said)}


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def run(options: argparse.Namespace) -> None:
    """Run the parts and print their tables."""
    bench = Bench(options.size, options.peak, options.repeats)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16, Llama {options.size}, vocabulary {VOCAB}")
    rows = [row for row in options.rows or ROWS if row in ROWS]
    parts: dict[str, Callable[[], None]] = {
        "attention": lambda: bench.attention([row for row in rows if row != "twice_the_pairs"]),
        "scaling": bench.scaling,
        "head": bench.head,
        "collating": bench.collating,
        "steps": lambda: bench.steps([row for row in rows if row != "long_pairs"], options.contenders or ["trl", *CONTENDERS]),
        "training": lambda: bench.training(options.steps),
    }
    for name in options.parts or parts:
        try:
            parts[name]()
        finally:
            if options.json:
                with open(options.json, "w") as out:
                    json.dump(bench.figures, out, indent=1)
