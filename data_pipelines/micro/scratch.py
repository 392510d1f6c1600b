"""Small Llamas trained from scratch on data that is made up as they go, and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.files import put

WARMUP = 30  # steps


def cached(kind: str, how: dict[str, Any], make: Callable[[Path], None], folder: Path | None = None) -> Path:
    """A folder made once for these settings, however many processes ask for it.

    Args:
        kind: begins the folder's name.
        how: the settings in JSON types; another value of any of them is another folder.
        make: fills the folder that it is given.
        folder: the cache (default: under HF_HOME).
    """
    from huggingface_hub.constants import HF_HOME

    key = hashlib.sha256(json.dumps([how, torch.__version__, "v2"], sort_keys=True).encode()).hexdigest()[:16]
    target = (folder or Path(HF_HOME) / "align" / "micro") / f"{kind}-{key}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            scratch = target.with_name(f"{target.name}.{os.getpid()}")
            make(scratch)
            put(scratch, target)
    return target


def wrap_tokenizer(core: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary has `<pad>` and `<eos>` as transformers sees it."""
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False)


def character_tokenizer(alphabet: str, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a character, and padding and end; `words` of small letters are one token each."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", *words, *alphabet])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    whole = "|".join([*sorted(words, key=len, reverse=True), "[\\s\\S]"])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(whole), "isolated")
    core.decoder = decoders.Fuse()
    return wrap_tokenizer(core)


def train_from_scratch(
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[str, str]],
    *,
    seed: int,
    batch_size: int,
    hidden_size: int,
    layers: int,
    heads: int,
    learning_rate: float,
    label: str,
    stop: Callable[[LlamaForCausalLM, int], float | None] = lambda model, step: None,
    stop_at: float = 1.0,
) -> LlamaForCausalLM:
    """Train a Llama on prompt and response texts, one pass.

    Args:
        tokenizer: its vocabulary sets the model's.
        examples: (prompt, response), taken in order; the end token follows every response.
        seed: of the weights; the global random state is left as it was.
        batch_size: texts per step.
        hidden_size: of the model.
        layers: of the model.
        heads: of the model.
        learning_rate: constant after a warm-up.
        label: in front of the progress bar.
        stop: (model, step) → how good it is, where it is time to look; None otherwise.
        stop_at: how good is enough.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=4 * hidden_size, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=128, tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
        bar = tqdm(range(1, len(examples) // batch_size + 1), desc=label, unit="step", mininterval=1.0)
        for step in bar:
            loss = _loss(model, tokenizer, examples[(step - 1) * batch_size : step * batch_size])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if (good := stop(model, step)) is not None:
                bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{good:.0%}")
                if good >= stop_at:
                    break
    return model.eval()


def _loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, part: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Next-token loss on the responses of a few examples."""
    batch = tokenizer([p + r + tokenizer.eos_token for p, r in part], padding=True, padding_side="right", return_tensors="pt")
    prompts = torch.tensor([len(tokenizer(p)["input_ids"]) for p, _ in part])[:, None]
    ids = batch["input_ids"]
    scored = (torch.arange(ids.shape[1])[None] >= prompts) & batch["attention_mask"].bool()
    return model(input_ids=ids, attention_mask=batch["attention_mask"], labels=ids.masked_fill(~scored, -100)).loss
